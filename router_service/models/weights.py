"""Loads the router's own parameters from a checkpoint, and nothing else of it."""

from collections.abc import Callable, Mapping

import torch

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.packer import Packer
from experts.checkpoint.source import TensorSource
from kernels.formats.quantized import Matrix
from kernels.ops import Ops

# Used by `Ops.linear` only, so they may have its layout or stay quantized; the others are plain tensors.
PROJECTIONS = frozenset(
    {
        *("qkv", "q_b", "out", "dense_gate_up", "dense_down"),
        *("shared_gate_up", "shared_down", "shared_gate", "head", "gate"),
    }
)
# Parameters of the shared expert; the rest of the router is dense.
SHARED_EXPERT = frozenset({"shared_gate_up", "shared_down", "shared_gate"})


def load_router_weights(
    checkpoint: Checkpoint,
    params: Mapping[str, TensorSource],
    dtype: torch.dtype,
    device: torch.device,
    ops: Ops,
    keep_packed: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Matrix]:
    """Read `params` into tensors of `dtype` on `device`, under our names.

    Args:
        keep_packed: keep projections quantized that are stored as blocks with scales.
        progress: called with the bytes of each tensor read, in the form kept.
    """
    packer, weights = Packer(checkpoint, ops, dtype, device, keep_packed, progress), dict[str, Matrix]()
    # Packed matrices first, the largest before others: packing needs two copies, so do it while little is loaded.
    # An embedding that is the head too: a layout of `Ops.linear` will do if single rows can be taken from it.
    matrices = {name for name in params if is_projection(name)}
    if "head" not in params and ops.take_rows is not None:
        matrices.add("embed")
    for name in sorted(params, key=lambda name: (name not in matrices, -params[name].elements)):
        weights[name] = packer.read_matrix(params[name]) if name in matrices else packer.read(params[name])
    return weights


def is_projection(name: str) -> bool:
    """Whether a parameter, by our name, is used by `Ops.linear` only."""
    return name.rpartition(".")[2] in PROJECTIONS


def is_shared_expert(name: str) -> bool:
    """Whether a parameter, by our name, belongs to a shared expert."""
    return name.rpartition(".")[2] in SHARED_EXPERT


def resident_bytes(params: Mapping[str, TensorSource], dtype: torch.dtype, packed: bool) -> int:
    """Bytes in memory of the router's parameters."""
    return sum(source.resident_bytes(dtype, packed and is_projection(name)) for name, source in params.items())
