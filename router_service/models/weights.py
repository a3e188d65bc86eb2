"""The router's own parameters, read from a checkpoint and nothing else of it."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from experts.checkpoint import Checkpoint, Copy
from router_service.models.spec import ParamSource


def load_router_weights(
    checkpoint: Checkpoint,
    params: Mapping[str, ParamSource],
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Read `params` into tensors of `dtype` on `device`, under our names.

    Args:
        progress: called with the bytes of each tensor read, in the dtype kept.
    """
    weights = {name: torch.empty(source.shape, dtype=dtype, device=device) for name, source in params.items()}
    checkpoint.load((copy for name, source in params.items() for copy in _copies(source, weights[name])), progress)
    return weights


def _copies(source: ParamSource, out: Tensor) -> Iterator[Copy]:
    row = 0
    for name, shape in source.parts:
        yield Copy(name, out[row : row + shape[0]])
        row += shape[0]
