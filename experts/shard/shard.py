"""A shard's experts: their weights in memory, and the sum over the experts of a call.

E experts held here, D hidden, F expert FFN size, R rows of a call.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.manifest import ExpertManifest
from experts.checkpoint.packer import Packer
from experts.checkpoint.source import TensorSource
from experts.placement import Placement
from experts.transport.call import ExpertCall, Form, largest
from kernels.ops import Ops
from kernels.weights import ExpertWeights

# On a CPU each number of rows up to 15 compiles a primitive of its own (see `kernels.cpu.linear.padded`).
WARM_UP_ROWS = 16
MOST_NAMED = 8


class NotHeldError(ValueError):
    """A call names a layer or experts that this shard does not hold."""

    def __init__(self, shard: int, layer: int, experts: Sequence[int]) -> None:
        named = ", ".join(map(str, experts[:MOST_NAMED]))
        super().__init__(f"shard {shard} does not hold these experts of layer {layer}: {named}")
        self.experts = tuple(experts)


class ExpertShard:
    """The experts `held[layer]`, ascending, of each layer in `layers`, whose weights are in that order.

    `epoch` is that of the placement that gives them to this shard.
    """

    def __init__(
        self,
        index: int,
        held: Mapping[int, Sequence[int]],
        layers: Mapping[int, ExpertWeights],
        ops: Ops,
        device: torch.device,
        weights_bytes: int,
        load_seconds: float,
        epoch: int = 0,
    ) -> None:
        self.index = index
        self.epoch = epoch
        self.held = {layer: tuple(experts) for layer, experts in held.items()}
        self.layers = layers
        self._slots = {layer: _slots(experts) for layer, experts in self.held.items()}
        self.weights_bytes = weights_bytes
        self.load_seconds = load_seconds
        self._ops = ops
        self._device = device

    def compute(self, call: ExpertCall) -> Tensor:
        """Return y_ND, float32 in host memory, of the call's form: for each row the weighted sum of its experts that
        live here, or the weighted output of each assignment.

        Raises:
            NotHeldError: the call names a layer or an expert that this shard does not hold.
            ValueError: it is of another dtype or width.
        """
        layer, slots_of_E = self.check(call), self._slots[call.layer]
        rows_A = torch.from_numpy(call.rows_A.astype(np.int64)).to(self._device)
        slots_A = torch.from_numpy(slots_of_E[call.experts_A]).to(self._device)
        weights_A = torch.from_numpy(call.weights_A.copy()).to(self._device)
        op = self._ops.expert_rows if call.form is Form.EACH else self._ops.expert_ffn
        return op(call.x_RD.to(self._device), layer, rows_A, slots_A, weights_A).cpu()

    def check(self, call: ExpertCall) -> ExpertWeights:
        """Return the weights of the call's layer.

        Raises:
            NotHeldError, ValueError: see `compute`.
        """
        layer = self.layers.get(call.layer)
        if layer is None or (len(call.experts_A) and self._misses(call)):
            raise NotHeldError(self.index, call.layer, self.missing(call))
        if call.x_RD.dtype != layer.dtype or call.x_RD.shape[1] != layer.hidden:
            wanted = f"{layer.dtype} of width {layer.hidden}"
            raise ValueError(
                f"shard {self.index} computes {wanted}, not {call.x_RD.dtype} of width {call.x_RD.shape[1]}"
            )
        return layer

    def missing(self, call: ExpertCall) -> list[int]:
        """The experts of a call that are not held here, ascending."""
        held = set(self.held.get(call.layer, ()))
        return sorted(set(call.experts_A.tolist()) - held)

    def _misses(self, call: ExpertCall) -> bool:
        slots_of_E = self._slots[call.layer]
        return largest(call.experts_A) >= len(slots_of_E) or bool((slots_of_E[call.experts_A] < 0).any())

    def warm_up(self) -> None:
        """Compute a few rows, as kernels are compiled at the first call of a size and no request should wait."""
        for rows in range(1, WARM_UP_ROWS + 1):
            self.compute(self.sample_call(rows))

    def sample_call(self, rows: int) -> ExpertCall:
        """A call of `rows` rows of zeros for the first expert of the first layer."""
        layer, experts = next(iter(self.layers.items()))
        x_RD = torch.zeros((rows, experts.hidden), dtype=experts.dtype)
        rows_A = np.arange(rows, dtype=np.int32)
        experts_A = np.full_like(rows_A, self.held[layer][0])
        return ExpertCall(layer, x_RD, rows_A, experts_A, np.ones(rows, dtype=np.float32))


def load_shard(
    *,
    index: int,
    placement: Placement,
    checkpoint: Checkpoint,
    manifest: ExpertManifest,
    dtype: torch.dtype,
    device: torch.device,
    ops: Ops,
    keep_packed: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> ExpertShard:
    """Read the experts that `placement` gives to one shard, and no other bytes of the checkpoint.

    Args:
        keep_packed: leave matrices that are stored in blocks with scales as they are.
        progress: called with the bytes of each tensor read, in the form kept.
    """
    begun, layers = time.monotonic(), {}
    ids = {layer: placement.layer(layer).held_by(index) for layer in manifest.layers}
    # One for all layers: it reuses the memory of a dense matrix for the next one.
    packer = Packer(checkpoint, ops, dtype, device, keep_packed, progress)
    for layer, experts in ids.items():
        held = [manifest.source(layer, expert) for expert in experts]
        gate_up = tuple(packer.read_matrix(one.gate_up, gate_up=True) for one in held)
        down = tuple(packer.read_matrix(one.down) for one in held)
        biases = (_biases(packer, [one.gate_up_bias for one in held]), _biases(packer, [one.down_bias for one in held]))
        layers[layer] = ops.prepare_weights(gate_up, down, manifest.form, *biases)
    weights_bytes = sum(map(len, ids.values())) * manifest.bytes_per_expert(dtype, keep_packed)
    seconds = time.monotonic() - begun
    return ExpertShard(index, ids, layers, ops, device, weights_bytes, seconds, placement.epoch)


def _slots(experts: Sequence[int]) -> NDArray[np.int64]:
    """By expert id: its place in the weights, -1 where it is not held."""
    slots_of_E = np.full(1 + max(experts), -1)
    slots_of_E[list(experts)] = np.arange(len(experts))
    return slots_of_E


def _biases(packer: Packer, sources: list[TensorSource | None]) -> Tensor | None:
    """The experts' biases under one another; None where the family has none."""
    biases = [packer.read(source) for source in sources if source is not None]
    return torch.stack(biases) if biases else None
