"""Which tensors a checkpoint has: a family asks, because its makers and transformers spell some of them differently."""

from collections.abc import Container, Mapping
from typing import Any

from experts.checkpoint.json_reader import JsonReader
from experts.checkpoint.source import Encoding, Part, scales_name

DEFAULT_BLOCK = (128, 128)


class TensorNames:
    """`names` that are there; FP8 matrices have a scale for each `block` of rows and columns."""

    def __init__(self, names: Container[str], block: tuple[int, int] = DEFAULT_BLOCK) -> None:
        self._names = names
        self._block = block

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of this name."""
        return name in self._names

    def matrix(self, name: str, rows: int, columns: int) -> Part:
        """A matrix, in FP8 where its scales are there."""
        if self.has(scales_name(name)):
            return Part(name, (rows, columns), encoding=Encoding.FP8, block=self._block)
        return Part(name, (rows, columns))


class PublishedNames(Container[str]):
    """Stands for the names of a checkpoint of which only the configuration is known.

    Every projection has scales if the configuration says FP8, every expert is MXFP4 if it says so.
    """

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        self._method = JsonReader(config, where).object("quantization_config").text("quant_method", default=None)

    def __contains__(self, name: object) -> bool:
        text = str(name)
        if self._method == "fp8" and text.endswith(scales_name("weight")):
            return "_proj" in text
        return self._method == "mxfp4" and text.endswith("_blocks")


def fp8_block(config: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Return FP8's rows and columns a scale from `quantization_config`, after checking that its method is one we read.

    Raises:
        CheckpointError: another method, or FP8 with other scales than one for each block.
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
