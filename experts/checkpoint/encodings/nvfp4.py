"""NVFP4 as ModelOpt and compressed-tensors write it: the same bytes, other names, and reciprocal scales."""

from dataclasses import dataclass

import torch
from torch import Tensor

from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.stored import Shape, Stored
from kernels.formats.nvfp4 import GROUP, Nvfp4


@dataclass(frozen=True, slots=True)
class Nvfp4Encoding(Encoding):
    """Values, an FP8 scale for 16 of a row, and a scale for the matrix, which multiplies or, if `divides`, divides.

    The ends of their names: `values`, "_scale" and `scale`.
    """

    values: str
    scale: str
    divides: bool

    def marker(self, name: str) -> str:
        """The scale of the matrix: other formats have scales of groups too."""
        return name + self.scale

    def stored(self, name: str, shape: Shape) -> tuple[Stored, ...]:
        """Values, scales of groups, scale of the matrix."""
        values, scales = self._shapes(shape)
        return (
            Stored(name + self.values, values, ("U8",)),
            Stored(f"{name}_scale", scales, ("F8_E4M3",)),
            Stored(self.marker(name), (1,), ("F32",), also=((),)),
        )

    def targets(self, shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
        """As they are stored."""
        values, scales = self._shapes(shape)
        return (
            torch.empty(values, dtype=torch.uint8, device=device),
            torch.empty(scales, dtype=torch.float8_e4m3fn, device=device),
            torch.empty(1, dtype=torch.float32, device=device),
        )

    def matrix(self, targets: tuple[Tensor, ...], dtype: torch.dtype) -> Nvfp4:
        """As in `Encoding`."""
        packed_OH, scales_OG, scale_1 = targets
        return Nvfp4(packed_OH, scales_OG, scale_1.reciprocal() if self.divides else scale_1, dtype)

    def _shapes(self, shape: Shape) -> tuple[Shape, Shape]:
        outputs, inputs = shape
        return (outputs, -(-inputs // 2)), (outputs, -(-inputs // GROUP))


MODELOPT = Nvfp4Encoding("", "_scale_2", divides=False)
COMPRESSED_TENSORS = Nvfp4Encoding("_packed", "_global_scale", divides=True)
