"""FP8 or INT8 values with a scale for each output or one for all, as compressed-tensors and ModelOpt write them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.stored import FLOATS, Shape, Stored
from kernels.formats.scaled import Int8Channel, ScaledFp8

STORED_AS = {ScaledFp8: "F8_E4M3", Int8Channel: "I8"}


@dataclass(frozen=True, slots=True)
class ScaledEncoding(Encoding):
    """Values of a `kind`, and their scales in a tensor whose name ends in `suffix`."""

    kind: type[ScaledFp8] | type[Int8Channel]
    per_tensor: bool
    suffix: str = "_scale"

    def marker(self, name: str) -> str:
        """Its scales."""
        return name + self.suffix

    def stored(self, name: str, shape: Shape) -> tuple[Stored, ...]:
        """Values and scales."""
        outputs = shape[0]
        one, also = ((1,), ((), (1, 1))) if self.per_tensor else ((outputs, 1), ((outputs,),))
        return Stored(name, shape, (STORED_AS[self.kind],)), Stored(self.marker(name), one, FLOATS, also)

    def targets(self, shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
        """Values and scales, in float32 whatever they are stored in."""
        scales_R1 = torch.empty(1 if self.per_tensor else shape[0], 1, dtype=torch.float32, device=device)
        return torch.empty(shape, dtype=self.kind.KIND, device=device), scales_R1

    def matrix(self, targets: tuple[Tensor, ...], dtype: torch.dtype) -> ScaledFp8 | Int8Channel:
        """As in `Encoding`."""
        values_OI, scales_R1 = targets
        return self.kind(values_OI, scales_R1, dtype)
