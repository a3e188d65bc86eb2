"""FP8 matrices with one scale a block, as DeepSeek-V3 and models after it publish them.

Source: DeepSeek-V3 technical report (arXiv 2412.19437), section 3.3, and the checkpoints' `weight_scale_inv`, which
multiplies despite its name.
Legend: O outputs (rows), I inputs (columns), B and C blocks along them, M rows of a piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import e4m3
from kernels.formats.checks import check_packed, check_scales
from kernels.formats.quantized import Coded, Scratch


@dataclass(frozen=True, eq=False)
class BlockFp8(Coded):
    """w = values * the scale of their block, the last blocks of a row or column being cut off by the matrix's edge.

    `values_OI` float8_e4m3fn, `scales_BC` float32 [ceil(O/block[0]), ceil(I/block[1])], both contiguous and on one
    device; decodes to `dtype` (bfloat16, float16 or float32). Raises ValueError where they do not fit.
    """

    values_OI: Tensor
    scales_BC: Tensor
    dtype: torch.dtype
    block: tuple[int, int] = (128, 128)

    def __post_init__(self) -> None:
        shape, kind = tuple(self.values_OI.shape), self.values_OI.dtype
        if len(shape) != 2 or kind != torch.float8_e4m3fn or min(*shape, *self.block) < 1:
            raise ValueError(f"need a float8_e4m3fn matrix and blocks, none empty, got {kind} {shape} {self.block}")
        blocks = _blocks(self.values_OI.shape, self.block)
        check_scales(f"scales of a {shape} matrix", self.scales_BC, torch.float32, blocks)
        check_packed(self.dtype, values=self.values_OI, scales=self.scales_BC)

    @classmethod
    def empty(
        cls,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        block: tuple[int, int] = (128, 128),
    ) -> BlockFp8:
        """A matrix [O, I] without contents, for a loader that fills `values_OI` and `scales_BC` in place."""
        values_OI = torch.empty(shape, dtype=torch.float8_e4m3fn, device=device)
        return cls(values_OI, torch.empty(_blocks(shape, block), device=device), dtype, block)

    @property
    def shape(self) -> torch.Size:
        """(O, I)."""
        return self.values_OI.shape

    def _wide(self, start: int, end: int, scratch: Scratch) -> Tensor:
        wide_MI = e4m3.widened(self.values_OI[start:end], scratch)
        scales_MC, width = self._scales(start, end), self.block[1]
        full_blocks = wide_MI.shape[1] // width
        # Whole blocks as one view, so that scales broadcast instead of being repeated for each column.
        wide_MI[:, : full_blocks * width].view(end - start, full_blocks, width).mul_(scales_MC[:, :full_blocks, None])
        if full_blocks * width < wide_MI.shape[1]:
            wide_MI[:, full_blocks * width :].mul_(scales_MC[:, full_blocks:])
        return wide_MI

    def _scales(self, start: int, end: int) -> Tensor:
        """The scales [M, C] of rows start..end-1, or [1, C] where they are all in one block."""
        height = self.block[0]
        first, last = start // height, -(-end // height)
        of_blocks = self.scales_BC[first:last]
        if last == first + 1:
            return of_blocks
        return of_blocks.repeat_interleave(height, 0)[start - first * height : end - first * height]


def _blocks(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, int]:
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])
