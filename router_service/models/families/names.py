"""Which tensors a checkpoint has: publishers and transformers name some of them differently."""

from collections.abc import Container, Mapping
from typing import Any

from experts.checkpoint.json_reader import JsonReader
from experts.checkpoint.source import Encoding, Part, scales_name

DEFAULT_BLOCK = (128, 128)


class TensorNames:
    """The names in a checkpoint; FP8 matrices have a scale per `block` of rows and columns."""

    def __init__(self, names: Container[str], block: tuple[int, int] = DEFAULT_BLOCK) -> None:
        self._names = names
        self._block = block

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of this name."""
        return name in self._names

    def matrix(self, name: str, rows: int, columns: int) -> Part:
        """Return a matrix, in FP8 if the checkpoint has its scales."""
        if self.has(scales_name(name)):
            return Part(name, (rows, columns), encoding=Encoding.FP8, block=self._block)
        return Part(name, (rows, columns))


class PublishedNames(Container[str]):
    """Replaces the names of a checkpoint of which only the configuration is known.

    If the configuration says FP8 every projection has scales; if it says MXFP4 every expert is in MXFP4.
    """

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._method = JsonReader(config, where).object("quantization_config").text("quant_method", default=None)

    def __contains__(self, name: object) -> bool:
        text = str(name)
        if self._method == "fp8" and text.endswith(scales_name("weight")):
            return "_proj" in text
        return self._method == "mxfp4" and text.endswith("_blocks")


def fp8_block(config: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Return the rows and columns per FP8 scale from `quantization_config`, after checking its method.

    Raises:
        CheckpointError: the method is not supported, or FP8 has other scales than one per block.
    """
    written = JsonReader(config, where).object("quantization_config")
    method, key = written.text("quant_method", default=None), "weight_block_size"
    if method not in (None, "fp8", "mxfp4"):
        raise written.error("quant_method", method, "supported: 'fp8' (block scales), 'mxfp4'")
    if method != "fp8":
        return DEFAULT_BLOCK
    block = written.get(key)
    sides = written.integers(key) if isinstance(block, list) and len(block) == 2 else None
    if sides is None or not all(sides):
        raise written.error(key, block, "FP8 needs two positive numbers, as [128, 128]")
    return sides[0], sides[1]
