"""INT8 matrices with a scale for each group of inputs; a group of a whole row is a scale for each output channel.

Legend: O outputs (rows), I inputs (columns), G groups along I, M rows of a piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats.checks import check_packed
from kernels.formats.groups import check_groups, groups_of, scale_groups
from kernels.formats.quantized import Coded, Scratch


@dataclass(frozen=True, eq=False)
class Int8Groups(Coded):
    """w = code * the scale of its group, symmetric.

    `codes_OI` int8, `scales_OG` bfloat16, float16 or float32 [O, G], G being I/group rounded up; both contiguous and on
    one device; decodes to `dtype` (bfloat16, float16 or float32). Raises ValueError where they do not fit.
    """

    codes_OI: Tensor
    scales_OG: Tensor
    dtype: torch.dtype
    group: int

    def __post_init__(self) -> None:
        codes = self.codes_OI
        if codes.dtype != torch.int8 or codes.ndim != 2:
            raise ValueError(f"codes must be int8 [O, I], got {codes.dtype} {tuple(codes.shape)}")
        check_groups((codes.shape[0], codes.shape[1]), self.scales_OG, self.group)
        check_packed(self.dtype, codes=codes, scales=self.scales_OG)

    @classmethod
    def empty(
        cls,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        group: int,
        scale_dtype: torch.dtype = torch.bfloat16,
    ) -> Int8Groups:
        """A matrix [O, I] without contents, for a loader that fills `codes_OI` and `scales_OG` in place."""
        scales_OG = torch.empty(shape[0], groups_of(shape[1], group), dtype=scale_dtype, device=device)
        return cls(torch.empty(shape, dtype=torch.int8, device=device), scales_OG, dtype, group)

    @property
    def shape(self) -> torch.Size:
        """(O, I)."""
        return self.codes_OI.shape

    @property
    def device(self) -> torch.device:
        """Where codes and scales lie."""
        return self.codes_OI.device

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes_OI.nbytes + self.scales_OG.nbytes

    def _wide(self, start: int, end: int, scratch: Scratch) -> Tensor:
        codes_MI = self.codes_OI[start:end]
        wide_MI = scratch.wide_N[: codes_MI.numel()].view(codes_MI.shape).copy_(codes_MI)
        return scale_groups(wide_MI, self.scales_OG[start:end], self.group)
