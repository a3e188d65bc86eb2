"""A model's weight matrices by name, applied by the backend's `linear`."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from kernels.formats.quantized import Matrix
from kernels.ops import Ops


class Projections:
    """`weights` as `models.weights` loads them: matrices for `Ops.linear`, and plain tensors."""

    def __init__(self, weights: Mapping[str, Matrix], ops: Ops) -> None:
        self._weights = dict(weights)
        self._linear = ops.linear
        self._take_rows = ops.take_rows
        # Found once, not by name in each product of each step.
        biases = (name.removesuffix("_bias") for name in weights if name.endswith("_bias"))
        self._biases = {name: self.tensor(f"{name}_bias") for name in biases}

    def apply(self, name: str, x_TI: Tensor) -> Tensor:
        """Return x W^T, plus the bias if there is one, in x's dtype."""
        return self._linear(x_TI, self._weights[name], self._biases.get(name))

    def rows(self, name: str, numbers_T: Tensor) -> Tensor:
        """Return rows of a matrix by number, [T, I]."""
        found = self._weights[name]
        if isinstance(found, Tensor):
            return F.embedding(numbers_T, found)
        assert self._take_rows is not None
        return self._take_rows(found, numbers_T)

    def tensor(self, name: str) -> Tensor:
        """Return a parameter that is a plain tensor."""
        found = self._weights[name]
        assert isinstance(found, Tensor)
        return found

    def release(self, name: str) -> None:
        """Forget a parameter of which the caller has made something else."""
        del self._weights[name]
