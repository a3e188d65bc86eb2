"""`quant_method: gptq`: INT4 groups as AutoGPTQ, GPTQModel and optimum write them."""

from collections.abc import Callable

from experts.checkpoint.encodings.gptq import GptqEncoding
from experts.checkpoint.json_reader import JsonReader
from router_service.models.families.quantization.int4 import check_bits, read_group
from router_service.models.families.quantization.quantization import Quantization, always

FORMAT = ("checkpoint_format", "format")
# Whether zero points are stored less one.
FORMATS = {"gptq": True, "gptq_v2": False}
# Asked about tensors only that the family does not have; engines that know GPTQ skip them too.
UNUSED = {".bias": "biases that the model does not have, which old versions of AutoGPTQ wrote as zeros"}
# Where a configuration says nothing, as in transformers.
GROUP = 128


def read_gptq(written: JsonReader) -> Quantization:
    """Read the layout. Which modules are quantized, the tensors say.

    Raises:
        CheckpointError: a value that is missing, bad, or of a variant that is not supported.
    """
    check_bits(written, "bits", "GPTQ")
    _check_variants(written)
    key = written.key_of(*FORMAT)
    form = written.text(key, default="gptq").lower()
    if form not in FORMATS:
        raise written.error(key, form, f"supported: {', '.join(map(repr, FORMATS))}")
    group, ordered = read_group(written, "group_size", default=GROUP), written.flag("desc_act", False)
    symmetric, less_one = written.flag("sym", True), FORMATS[form]
    layouts = [GptqEncoding(group, symmetric, ordered, less_one)]
    if not ordered:  # else nothing would say which group an input is in
        layouts.append(GptqEncoding(group, symmetric, ordered, less_one, indexed=False))
    return Quantization(always(*layouts), _plain(written), UNUSED)


def _plain(written: JsonReader) -> Callable[[str], bool]:
    """The head is quantized only where that is said."""
    head = written.flag("lm_head", False)
    return lambda name: name.endswith("lm_head.weight") and not head


def _check_variants(written: JsonReader) -> None:
    """Refuse other layouts, and modules in another than the rest: `dynamic` may only leave some out (`-:`)."""
    written.must_be("pack_dtype", ["int32"])
    if written.flag("is_marlin_format", False):
        raise written.error("is_marlin_format", True, "Marlin's layout is not supported: take the GPTQ checkpoint")
    for pattern, changes in written.object("dynamic").values.items():
        if not pattern.startswith("-:") and changes:
            raise written.error("dynamic", {pattern: changes}, "modules of other bits or groups are not supported")
