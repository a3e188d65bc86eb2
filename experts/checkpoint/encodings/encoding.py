"""What a loader must know of a quantized format: the tensors that a matrix is stored in, and what they make.

A format is a frozen dataclass in a file of its own, whose fields are what a configuration says of it; which
configuration means which is a matter of `router_service/models/families/quantization`.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from experts.checkpoint.stored import Shape, Stored
from kernels.formats.quantized import Quantized


class Encoding(ABC):
    """How the values of matrices [O, I] are written."""

    @abstractmethod
    def marker(self, name: str) -> str:
        """A tensor that the checkpoint holds where, and only where, it writes the matrix `name` so."""

    @abstractmethod
    def stored(self, name: str, shape: Shape) -> tuple[Stored, ...]:
        """The tensors that the checkpoint holds for the matrix `name` of this shape; never fails."""

    @abstractmethod
    def targets(self, shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
        """Tensors without contents, one for each of `stored`, to be read into and converted to their dtypes; never
        fails.
        """

    @abstractmethod
    def matrix(self, targets: tuple[Tensor, ...], dtype: torch.dtype) -> Quantized:
        """The matrix that the `targets` make once they are filled; decodes to `dtype`.

        Raises:
            ValueError: the format has no matrix of this shape, or none of these contents.
        """

    def packed_bytes(self, shape: Shape) -> int:
        """Bytes of a packed matrix of this shape in memory. Override where `matrix` does not keep its targets as they
        are.
        """
        return sum(target.nbytes for target in self.targets(shape, torch.device("meta")))
