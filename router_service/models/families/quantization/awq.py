"""`quant_method: awq`: INT4 groups with zero points, as AutoAWQ writes them."""

from experts.checkpoint.encodings.awq import AwqEncoding
from experts.checkpoint.json_reader import JsonReader
from router_service.models.families.quantization.int4 import check_bits, read_group
from router_service.models.families.quantization.module_patterns import module_of
from router_service.models.families.quantization.quantization import Quantization, always

VERSION = ("version", "format", "checkpoint_format")
SUPPORTED = "gemm"
GROUP = 128


def read_awq(written: JsonReader) -> Quantization:
    """Read the layout, and the modules that are not quantized; the head never is.

    Raises:
        CheckpointError: a value that is missing, bad, or of a variant that is not supported.
    """
    check_bits(written, written.key_of("bits", "w_bit"), "AWQ")
    key = written.key_of(*VERSION)
    version = written.text(key, default=SUPPORTED)
    if version.lower() != SUPPORTED:
        raise written.error(key, version, f"supported: {SUPPORTED!r}, the layout that AutoAWQ writes unless told else")
    if not written.flag("zero_point", True):
        raise written.error("zero_point", False, "AWQ without zero points is not supported: take a GPTQ checkpoint")
    # Parts of names, which may lie anywhere in a module's.
    kept = written.strings("modules_to_not_convert")

    def plain(name: str) -> bool:
        return name.endswith("lm_head.weight") or any(part in module_of(name) for part in kept)

    encoding = AwqEncoding(read_group(written, "group_size", "q_group_size", default=GROUP))
    return Quantization(always(encoding), plain)
