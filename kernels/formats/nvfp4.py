"""NVFP4 matrices: 4-bit values, an FP8 scale for 16 of them and a float32 scale for all.

Source: NVIDIA ModelOpt, whose checkpoints write `weight`, `weight_scale` and `weight_scale_2`, the product of which is
the matrix (NVIDIA's documentation of nemo_automodel.components.quantization.nvfp4 states the layout).
compressed-tensors' format nvfp4-pack-quantized has the reciprocal of the last one, `weight_global_scale`, by which its
code divides: the loader turns it around.
Legend: O outputs (rows), I inputs (columns), H bytes of a row (I/2), G groups of 16 inputs, M rows of a piece.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import e2m1, e4m3
from kernels.formats.checks import check_packed, check_scales
from kernels.formats.quantized import Coded, Scratch

GROUP = 16


@dataclass(frozen=True, eq=False)
class Nvfp4(Coded):
    """w = (values * scale of their group) * scale of the matrix; a NaN among the scales makes what it scales NaN.

    `packed_OH` uint8 [O, I/2], two E2M1 values a byte, the low four bits being the earlier one; `scales_OG`
    float8_e4m3fn [O, I/16]; `scale_1` float32 [1]; all contiguous and on one device; decodes to `dtype` (bfloat16,
    float16 or float32). The first product is exact in float32. Raises ValueError where they do not fit.
    """

    packed_OH: Tensor
    scales_OG: Tensor
    scale_1: Tensor
    dtype: torch.dtype

    def __post_init__(self) -> None:
        shape, kind = tuple(self.packed_OH.shape), self.packed_OH.dtype
        if len(shape) != 2 or kind != torch.uint8 or min(shape) < 1:
            raise ValueError(f"need a uint8 matrix [O, I/2] that is not empty, got {kind} {shape}")
        _check_columns(2 * shape[1])
        groups = shape[0], 2 * shape[1] // GROUP
        check_scales(f"scales of a {tuple(self.shape)} matrix", self.scales_OG, torch.float8_e4m3fn, groups)
        check_scales("the scale of a matrix", self.scale_1, torch.float32, (1,))
        check_packed(self.dtype, values=self.packed_OH, scales=self.scales_OG, scale=self.scale_1)

    @classmethod
    def empty(cls, shape: tuple[int, int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Nvfp4:
        """A matrix [O, I] without contents, for a loader that fills its three tensors in place.

        Raises ValueError unless 16 divides I.
        """
        outputs, inputs = shape
        _check_columns(inputs)
        packed_OH = torch.empty(outputs, inputs // 2, dtype=torch.uint8, device=device)
        scales_OG = torch.empty(outputs, inputs // GROUP, dtype=torch.float8_e4m3fn, device=device)
        return cls(packed_OH, scales_OG, torch.empty(1, device=device), dtype)

    @property
    def shape(self) -> torch.Size:
        """(O, I)."""
        return torch.Size((self.packed_OH.shape[0], 2 * self.packed_OH.shape[1]))

    def _wide(self, start: int, end: int, scratch: Scratch) -> Tensor:
        codes_G = self.scales_OG[start:end].view(torch.uint8).view(-1).int()
        scales_G = e4m3.values(self.device).index_select(0, codes_G)
        # By the group first: that is exact, so that only the last product rounds.
        return e2m1.scaled(self.packed_OH[start:end], scales_G, scratch).mul_(self.scale_1).view(end - start, -1)


def _check_columns(inputs: int) -> None:
    if inputs % GROUP:
        raise ValueError(f"NVFP4 rows are whole groups of {GROUP}, got {inputs} columns")
