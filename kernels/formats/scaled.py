"""Matrices of one byte a value with one scale for each output, or one for all: FP8 and INT8.

Source: compressed-tensors' formats float-quantized and int-quantized (strategies channel and tensor, symmetric), and
NVIDIA ModelOpt's FP8; in all of them `weight_scale` multiplies.
Legend: O outputs (rows), I inputs (columns), R rows of scales (O or 1), M rows of a piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from kernels.formats import e4m3
from kernels.formats.checks import check_packed, check_scales
from kernels.formats.quantized import Coded, Scratch


@dataclass(frozen=True, eq=False)
class _Scaled(Coded):
    """w = values * the scale of their row, or of the matrix.

    `values_OI` of the format's dtype, `scales_R1` float32 [O, 1] or [1, 1], both contiguous and on one device; decodes
    to `dtype` (bfloat16, float16 or float32). Raises ValueError where they do not fit.
    """

    values_OI: Tensor
    scales_R1: Tensor
    dtype: torch.dtype

    KIND: ClassVar[torch.dtype]

    def __post_init__(self) -> None:
        shape, kind = tuple(self.values_OI.shape), self.values_OI.dtype
        if len(shape) != 2 or kind != self.KIND or min(shape) < 1:
            wanted = str(self.KIND).removeprefix("torch.")
            raise ValueError(f"need a matrix of {wanted} that is not empty, got {kind} {shape}")
        check_scales(f"scales of a {shape} matrix", self.scales_R1, torch.float32, (shape[0], 1), (1, 1))
        check_packed(self.dtype, values=self.values_OI, scales=self.scales_R1)

    @classmethod
    def empty(
        cls, shape: tuple[int, int], dtype: torch.dtype, device: torch.device | str = "cpu", per_tensor: bool = False
    ) -> Self:
        """A matrix [O, I] without contents, for a loader that fills `values_OI` and `scales_R1` in place."""
        scales_R1 = torch.empty(1 if per_tensor else shape[0], 1, device=device)
        return cls(torch.empty(shape, dtype=cls.KIND, device=device), scales_R1, dtype)

    @property
    def shape(self) -> torch.Size:
        """(O, I)."""
        return self.values_OI.shape

    def _wide(self, start: int, end: int, scratch: Scratch) -> Tensor:
        scales = self.scales_R1 if len(self.scales_R1) == 1 else self.scales_R1[start:end]
        return self._unscaled(self.values_OI[start:end], scratch).mul_(scales)

    def _unscaled(self, values_MI: Tensor, scratch: Scratch) -> Tensor:
        return scratch.wide_N[: values_MI.numel()].view(values_MI.shape).copy_(values_MI)


class ScaledFp8(_Scaled):
    """FP8 (float8_e4m3fn) with a scale for each output or one for all."""

    KIND = torch.float8_e4m3fn

    def _unscaled(self, values_MI: Tensor, scratch: Scratch) -> Tensor:
        return e4m3.widened(values_MI, scratch)


class Int8Channel(_Scaled):
    """int8 with a scale for each output, -128 included, or one for all; no zero points."""

    KIND = torch.int8
