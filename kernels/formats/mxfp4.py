"""MXFP4 matrices: 4-bit values with one power of two for 32 of them, as gpt-oss publishes its experts.

Source: OCP Microscaling Formats (MX) Specification v1.0, sections 5.3.3 (E2M1) and 5.4.1 (E8M0).
Legend: O outputs (rows), I inputs (columns), G groups of 32 inputs, H bytes of a group (16), M rows of a piece.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kernels.formats.quantized import FLOAT_DTYPES, Coded, Scratch

GROUP = 32
# Of codes 0..7; codes 8..15 are their negatives.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


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
        if self.scales_OG.shape != self.blocks_OGH.shape[:2]:
            found = f"{tuple(self.scales_OG.shape)} for blocks {tuple(self.blocks_OGH.shape)}"
            raise ValueError(f"scales must be [O, I/{GROUP}], got {found}")
        if self.dtype not in FLOAT_DTYPES:
            raise ValueError(f"a quantized matrix decodes to bfloat16, float16 or float32, not {self.dtype}")
        if self.blocks_OGH.device != self.scales_OG.device:
            raise ValueError(
                f"blocks on {self.blocks_OGH.device} and scales on {self.scales_OG.device} must be together"
            )

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

    @property
    def device(self) -> torch.device:
        """Where blocks and scales lie."""
        return self.blocks_OGH.device

    @property
    def nbytes(self) -> int:
        """Bytes of blocks and scales."""
        return self.blocks_OGH.nbytes + self.scales_OG.nbytes

    def _wide(self, start: int, end: int, scratch: Scratch) -> Tensor:
        """Rows in float32. Measured on Zen 5, bfloat16 [2048, 1024], one thread, scaling and rounding included.

        Two values at once from a table by their byte: 1.3 GB/s of packed bytes (1.1 in `dense` of [4096, 1024], 1.2 on
        two threads); shifting and masking them into bfloat16 0.7; four bfloat16 at once from a table by two bytes 1.5,
        but for that dtype only.
        """
        blocks_MGH = self.blocks_OGH[start:end]
        pairs, powers = _tables(self.device)
        index_P = scratch.index_N[: blocks_MGH.numel()].copy_(blocks_MGH.view(-1))
        wide_N = scratch.wide_N[: 2 * len(index_P)]
        torch.index_select(pairs, 0, index_P, out=wide_N.view(torch.int64))
        scales_N = powers.index_select(0, self.scales_OG[start:end].view(-1).int())
        wide_N.view(-1, GROUP).mul_(scales_N[:, None])
        return wide_N.view(len(blocks_MGH), -1)


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The two float32 values of a byte, as one int64, and the float32 value of a scale; 256 of each."""
    values = torch.tensor([*E2M1, *(-value for value in E2M1)])  # the high bit of a code is the sign
    byte = torch.arange(256)
    pairs = torch.stack((values[byte & 15], values[byte >> 4]), 1).view(torch.int64).view(-1)
    # E8M0 has no sign and no zero; code 255 is its only NaN.
    powers = torch.tensor([*(math.ldexp(1.0, code - 127) for code in range(255)), math.nan])
    return pairs.to(device), powers.to(device)
