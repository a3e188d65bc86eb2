"""The router's own parameters, read from a checkpoint and nothing else of it."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from experts.checkpoint import Checkpoint, Copy
from experts.packer import Packer
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
    packer, weights = Packer(checkpoint, ops, dtype, device, progress), {}
    for name in sorted(params, key=lambda name: _order(name, params[name])):
        read = packer.read_packed if _packed(name) else packer.read
        weights[name] = read(params[name].shape, partial(_copies, params[name]))
    return weights


def _packed(name: str) -> bool:
    return name.rpartition(".")[2] in PROJECTIONS


def _order(name: str, source: ParamSource) -> tuple[bool, int]:
    """What will be packed first, the largest before: for a moment it is there twice, when little else is there."""
    return not _packed(name), -math.prod(source.shape)


def _copies(source: ParamSource, out: Tensor) -> list[Copy]:
    copies, row = [], 0
    for name, shape in source.parts:
        copies.append(Copy(name, out[row : row + shape[0]]))
        row += shape[0]
    return copies
