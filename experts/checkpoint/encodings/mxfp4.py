"""MXFP4 as gpt-oss is published: blocks and scales of all experts of a layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.stored import Shape, Stored
from kernels.formats.mxfp4 import GROUP, Mxfp4


@dataclass(frozen=True, slots=True)
class Mxfp4Encoding(Encoding):
    """Two E2M1 values a byte and a power of two for each 32 of a row (OCP Microscaling 1.0)."""

    def marker(self, name: str) -> str:
        """Its values."""
        return f"{name}_blocks"

    def stored(self, name: str, shape: Shape) -> tuple[Stored, ...]:
        """Values and scales."""
        groups = (shape[0], shape[1] // GROUP)
        return Stored(self.marker(name), (*groups, GROUP // 2), ("U8",)), Stored(f"{name}_scales", groups, ("U8",))

    def targets(self, shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
        """As they are stored."""
        return tuple(torch.empty(s.shape, dtype=torch.uint8, device=device) for s in self.stored("", shape))

    def matrix(self, targets: tuple[Tensor, ...], dtype: torch.dtype) -> Mxfp4:
        """As in `Encoding`."""
        blocks_OGH, scales_OG = targets
        return Mxfp4(blocks_OGH, scales_OG, dtype)
