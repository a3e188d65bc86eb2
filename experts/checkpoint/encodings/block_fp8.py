"""FP8 with a scale for each block of rows and columns, as DeepSeek-V3 and models after it are published."""

from dataclasses import dataclass

import torch
from torch import Tensor

from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.stored import FLOATS, Shape, Stored
from kernels.formats.block_fp8 import BlockFp8


@dataclass(frozen=True, slots=True)
class BlockFp8Encoding(Encoding):
    """E4M3 values, and a scale for each `block` in a tensor whose name ends in `suffix`; despite DeepSeek's `_inv` it
    multiplies.
    """

    block: tuple[int, int] = (128, 128)
    suffix: str = "_scale_inv"

    def marker(self, name: str) -> str:
        """Its scales."""
        return name + self.suffix

    def stored(self, name: str, shape: Shape) -> tuple[Stored, ...]:
        """Values and scales."""
        return Stored(name, shape, ("F8_E4M3",)), Stored(self.marker(name), self._blocks(shape), FLOATS)

    def targets(self, shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
        """Values and scales, in float32 whatever they are stored in."""
        values_OI = torch.empty(shape, dtype=torch.float8_e4m3fn, device=device)
        return values_OI, torch.empty(self._blocks(shape), dtype=torch.float32, device=device)

    def matrix(self, targets: tuple[Tensor, ...], dtype: torch.dtype) -> BlockFp8:
        """As in `Encoding`."""
        values_OI, scales_BC = targets
        return BlockFp8(values_OI, scales_BC, dtype, self.block)

    def _blocks(self, shape: Shape) -> Shape:
        return tuple(-(-size // step) for size, step in zip(shape, self.block, strict=True))
