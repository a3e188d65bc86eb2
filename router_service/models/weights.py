"""The router's own parameters, read from a checkpoint and nothing else of it."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from experts.checkpoint import Checkpoint, Copy
from kernels.select import Ops
from router_service.models.spec import ParamSource

# Read by `Ops.linear` alone, so they may have its layout; the embedding and the gate are read by others too.
PROJECTIONS = frozenset({"qkv", "out", "dense_gate_up", "dense_down", "head"})


def load_router_weights(
    checkpoint: Checkpoint,
    params: Mapping[str, ParamSource],
    dtype: torch.dtype,
    device: torch.device,
    ops: Ops,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Read `params` into tensors of `dtype` on `device`, under our names.

    Args:
        progress: called with the bytes of each tensor read, in the dtype kept.
    """
    weights = {}
    for name, source in params.items():
        weight = torch.empty(source.shape, dtype=dtype, device=device)
        checkpoint.load(_copies(source, weight), progress)
        weights[name] = ops.pack(weight) if name.rpartition(".")[2] in PROJECTIONS else weight
    return weights


def _copies(source: ParamSource, out: Tensor) -> Iterator[Copy]:
    row = 0
    for name, shape in source.parts:
        yield Copy(name, out[row : row + shape[0]])
        row += shape[0]
