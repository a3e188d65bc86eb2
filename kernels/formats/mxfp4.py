"""MXFP4 matrices: 4-bit values with one power of two for 32 of them, as gpt-oss publishes its experts.

Source: OCP Microscaling Formats (MX) Specification v1.0, section 5.4.1 (E8M0); values as in `e2m1.py`.
Legend: O outputs (rows), I inputs (columns), G groups of 32 inputs, H bytes of a group (16), M rows of a piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kernels.formats import e2m1
from kernels.formats.checks import check_packed, check_scales
from kernels.formats.quantized import Coded, Scratch

GROUP = 32


@dataclass(frozen=True, eq=False)
class Mxfp4(Coded):
    """w = values * 2**(scale - 127); a scale of 255 makes its group NaN.

    `blocks_OGH` uint8 [O, I/32, 16], two values a byte, the low four bits being the earlier one; `scales_OG` uint8
    [O, I/32]; both contiguous and on one device; decodes to `dtype` (bfloat16, float16 or float32). Every product but
    an overflow is exact in bfloat16 and float32. Raises ValueError where they do not fit.
    """

    blocks_OGH: Tensor
    scales_OG: Tensor
    dtype: torch.dtype

    def __post_init__(self) -> None:
        for name, tensor in (("blocks", self.blocks_OGH), ("scales", self.scales_OG)):
            if tensor.dtype != torch.uint8 or not tensor.is_contiguous():
                raise ValueError(f"{name} must be contiguous and uint8, got {tensor.dtype}: convert them first")
        if self.blocks_OGH.ndim != 3 or self.blocks_OGH.shape[2] * 2 != GROUP or not self.blocks_OGH.numel():
            raise ValueError(f"blocks must be [O, I/{GROUP}, {GROUP // 2}], got {tuple(self.blocks_OGH.shape)}")
        check_scales("scales", self.scales_OG, torch.uint8, tuple(self.blocks_OGH.shape[:2]))
        check_packed(self.dtype, blocks=self.blocks_OGH, scales=self.scales_OG)

    @classmethod
    def empty(cls, shape: tuple[int, int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Mxfp4:
        """A matrix [O, I] without contents, for a loader that fills `blocks_OGH` and `scales_OG` in place.

        Raises ValueError unless 32 divides I.
        """
        outputs, inputs = shape
        if inputs % GROUP:
            raise ValueError(f"MXFP4 rows are whole groups of {GROUP}, got {inputs} columns")
        blocks_OGH = torch.empty(outputs, inputs // GROUP, GROUP // 2, dtype=torch.uint8, device=device)
        return cls(blocks_OGH, torch.empty(blocks_OGH.shape[:2], dtype=torch.uint8, device=device), dtype)

    @property
    def shape(self) -> torch.Size:
        """(O, I)."""
        return torch.Size((self.blocks_OGH.shape[0], self.blocks_OGH.shape[1] * GROUP))

    def _wide(self, start: int, end: int, scratch: Scratch) -> Tensor:
        scales_N = _powers(self.device).index_select(0, self.scales_OG[start:end].view(-1).int())
        return e2m1.scaled(self.blocks_OGH[start:end], scales_N, scratch).view(end - start, -1)


@cache
def _powers(device: torch.device) -> Tensor:
    """The float32 values of the 256 scales: E8M0 has no sign and no zero, and code 255 is its only NaN."""
    return torch.tensor([*(math.ldexp(1.0, code - 127) for code in range(255)), math.nan]).to(device)
