"""`quant_method: fp8`: blocks as DeepSeek, Qwen, GLM and MiniMax publish them, or one scale for a matrix."""

from experts.checkpoint.encodings.block_fp8 import BlockFp8Encoding
from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.encodings.scaled import ScaledEncoding
from experts.checkpoint.json_reader import JsonReader
from kernels.formats.scaled import ScaledFp8
from router_service.models.families.quantization.module_patterns import module_of, read_patterns
from router_service.models.families.quantization.quantization import Quantization, always

BLOCK = "weight_block_size"
# The scales of a matrix without blocks have either name.
PER_TENSOR: tuple[Encoding, ...] = tuple(ScaledEncoding(ScaledFp8, True, suffix) for suffix in ("_scale", "_scale_inv"))


def read_fp8(written: JsonReader) -> Quantization:
    """Read the size of a block, and the modules that are not quantized; the head never is.

    Raises:
        CheckpointError: a value that is missing or bad.
    """
    ignored = read_patterns(written, "modules_to_not_convert", "ignored_layers")

    def plain(name: str) -> bool:
        return name.endswith("lm_head.weight") or ignored(module_of(name))

    in_blocks = written.get(BLOCK) is not None
    return Quantization(always(*(_blocks(written) if in_blocks else PER_TENSOR)), plain)


def _blocks(written: JsonReader) -> tuple[Encoding, ...]:
    return (BlockFp8Encoding(read_block(written, BLOCK)),)


def read_block(written: JsonReader, key: str) -> tuple[int, int]:
    """Read the rows and columns that share a scale.

    Raises:
        CheckpointError: it is not two positive numbers.
    """
    block = written.get(key)
    sides = written.integers(key) if isinstance(block, list) and len(block) == 2 else None
    if sides is None or not all(sides):
        raise written.error(key, block, "FP8 needs two positive numbers, as [128, 128]")
    return sides[0], sides[1]
