"""How compressed-tensors describes the weights of a group of modules: bits, type, and what shares a scale.

Source: https://github.com/vllm-project/compressed-tensors, `quantization/quant_args.py`, for the keys and defaults.
"""

from collections.abc import Callable, Sequence

from experts.checkpoint.encodings import nvfp4
from experts.checkpoint.encodings.block_fp8 import BlockFp8Encoding
from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.encodings.scaled import ScaledEncoding
from experts.checkpoint.json_reader import JsonReader
from kernels.formats.nvfp4 import GROUP
from kernels.formats.scaled import Int8Channel, ScaledFp8
from router_service.models.families.quantization.fp8 import read_block
from router_service.models.families.quantization.pack_quantized import read_pack_quantized

DEFAULTS = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}


def check_weights(weights: JsonReader, bits: int, kind: str, strategies: Sequence[str]) -> str:
    """Check what all formats have in common, and return the strategy: what shares a scale.

    Raises:
        CheckpointError: other values than these, zero points, or an order of columns by activations.
    """
    check(weights, "num_bits", [bits])
    check(weights, "type", [kind])
    check(weights, "symmetric", [True])
    check(weights, "dynamic", [False])
    check(weights, "actorder", [None, False, "weight", "static"])  # these change nothing in what is stored
    if weights.get("strategy") is None:
        return _inferred(weights, strategies)
    check(weights, "strategy", strategies)
    return str(weights.get("strategy"))


def check(reader: JsonReader, key: str, allowed: Sequence[object]) -> None:
    """Refuse a value that is not supported; one that is not set counts as compressed-tensors' default.

    Raises:
        CheckpointError: it is not in `allowed`.
    """
    value = reader.get(key, default=DEFAULTS.get(key))
    if not any(value == one and type(value) is type(one) for one in allowed):
        raise reader.error(key, value, f"supported: {', '.join(map(repr, allowed))}")


def _inferred(weights: JsonReader, strategies: Sequence[str]) -> str:
    size = weights.get("group_size")
    inferred = "tensor" if size is None else "channel" if size == -1 else "group"
    if inferred not in strategies:
        raise weights.error("strategy", None, f"group_size {size!r:.40} means {inferred!r}, supported: {strategies}")
    return inferred


def read_float(weights: JsonReader) -> Encoding:
    """FP8 with a scale for each block, output or matrix.

    Raises:
        CheckpointError: see `check_weights`.
    """
    strategy = check_weights(weights, 8, "float", ["channel", "tensor", "block"])
    if strategy == "block":
        return BlockFp8Encoding(read_block(weights, "block_structure"), "_scale")
    return ScaledEncoding(ScaledFp8, per_tensor=strategy == "tensor")


def read_int(weights: JsonReader) -> Encoding:
    """INT8 with a scale for each output or matrix.

    Raises:
        CheckpointError: see `check_weights`.
    """
    strategy = check_weights(weights, 8, "int", ["channel", "tensor"])
    return ScaledEncoding(Int8Channel, per_tensor=strategy == "tensor")


def read_nvfp4(weights: JsonReader) -> Encoding:
    """NVFP4, whose groups have 16 inputs.

    Raises:
        CheckpointError: see `check_weights`.
    """
    check_weights(weights, 4, "float", ["tensor_group", "group"])
    check(weights, "group_size", [GROUP])
    return nvfp4.COMPRESSED_TENSORS


def read_naive(weights: JsonReader) -> Encoding:
    """FP8 or INT8, by their type.

    Raises:
        CheckpointError: see `check_weights`.
    """
    return read_float(weights) if weights.get("type") == "float" else read_int(weights)


# What reads a group's `weights`, by its format.
FORMATS: dict[str, Callable[[JsonReader], Encoding]] = {
    "float-quantized": read_float,
    "int-quantized": read_int,
    "naive-quantized": read_naive,
    "nvfp4-pack-quantized": read_nvfp4,
    "pack-quantized": read_pack_quantized,
}
