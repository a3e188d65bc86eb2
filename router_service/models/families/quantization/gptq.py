"""`quant_method: gptq`: INT4 groups as AutoGPTQ, GPTQModel and optimum write them."""

from experts.checkpoint.encodings.gptq import GptqEncoding
from experts.checkpoint.json_reader import JsonReader
from router_service.models.families.quantization.int4 import check_bits, read_group
from router_service.models.families.quantization.quantization import Quantization, always

FORMAT = ("checkpoint_format", "format")
# Whether zero points are stored less one.
FORMATS = {"gptq": True, "gptq_v2": False}
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
    indexed = GptqEncoding(group, symmetric, ordered, less_one)
    if ordered:  # without an index nothing says which group an input is in
        return Quantization(always(indexed))
    return Quantization(always(indexed, GptqEncoding(group, symmetric, ordered, less_one, indexed=False)))


def _check_variants(written: JsonReader) -> None:
    """Refuse other layouts, and modules in another than the rest: `dynamic` may only leave some out (`-:`)."""
    written.must_be("pack_dtype", ["int32"])
    if written.flag("is_marlin_format", False):
        raise written.error("is_marlin_format", True, "Marlin's layout is not supported: take the GPTQ checkpoint")
    for pattern, changes in written.object("dynamic").values.items():
        if not pattern.startswith("-:") and changes:
            raise written.error("dynamic", {pattern: changes}, "modules of other bits or groups are not supported")
