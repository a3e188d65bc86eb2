"""A shard's experts: their weights in memory, and the sum over the experts of a call.

E experts held here, D hidden, F expert FFN size, R rows of a call.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.manifest import ExpertManifest
from experts.checkpoint.packer import Packer
from experts.checkpoint.source import TensorSource
from experts.transport.call import ExpertCall, Form, largest
from kernels.ops import Ops
from kernels.weights import ExpertWeights

# On a CPU each number of rows up to 15 compiles a primitive of its own (see `kernels.cpu.linear.padded`).
WARM_UP_ROWS = 16


class ExpertShard:
    """Experts `experts` of each layer in `layers`, ready to compute in `dtype` on `device`."""

    def __init__(
        self,
        index: int,
        experts: Sequence[int],
        layers: Mapping[int, ExpertWeights],
        ops: Ops,
        device: torch.device,
        weights_bytes: int,
        load_seconds: float,
    ) -> None:
        self.index = index
        self.experts = tuple(experts)
        self.layers = layers
        self.weights_bytes = weights_bytes
        self.load_seconds = load_seconds
        self._ops = ops
        self._device = device

    def compute(self, call: ExpertCall) -> Tensor:
        """Return y_ND, float32 in host memory, of the call's form: for each row the weighted sum of its experts that
        live here, or the weighted output of each assignment.

        Raises:
            ValueError: the call names a layer or an expert that this shard does not hold, or is of another dtype.
        """
        layer = self.check(call)
        rows_A = torch.from_numpy(call.rows_A.astype(np.int64)).to(self._device)
        slots_A = torch.from_numpy(call.slots_A.astype(np.int64)).to(self._device)
        weights_A = torch.from_numpy(call.weights_A.copy()).to(self._device)
        op = self._ops.expert_rows if call.form is Form.EACH else self._ops.expert_ffn
        return op(call.x_RD.to(self._device), layer, rows_A, slots_A, weights_A).cpu()

    def check(self, call: ExpertCall) -> ExpertWeights:
        """Return the weights of the call's layer.

        Raises:
            ValueError: see `compute`.
        """
        layer = self.layers.get(call.layer)
        if layer is None:
            raise ValueError(f"shard {self.index} holds no experts of layer {call.layer}")
        if len(call.slots_A) and (number := largest(call.slots_A)) >= len(self.experts):
            raise ValueError(f"shard {self.index} holds {len(self.experts)} experts, not number {number}")
        if call.x_RD.dtype != layer.dtype or call.x_RD.shape[1] != layer.hidden:
            wanted = f"{layer.dtype} of width {layer.hidden}"
            raise ValueError(
                f"shard {self.index} computes {wanted}, not {call.x_RD.dtype} of width {call.x_RD.shape[1]}"
            )
        return layer

    def warm_up(self) -> None:
        """Compute a few rows, as kernels are compiled at the first call of a size and no request should wait."""
        for rows in range(1, WARM_UP_ROWS + 1):
            self.compute(self.sample_call(rows))

    def sample_call(self, rows: int) -> ExpertCall:
        """A call of `rows` rows of zeros for the first expert of the first layer."""
        layer, experts = next(iter(self.layers.items()))
        x_RD = torch.zeros((rows, experts.hidden), dtype=experts.dtype)
        rows_A = np.arange(rows, dtype=np.int32)
        return ExpertCall(layer, x_RD, rows_A, np.zeros_like(rows_A), np.ones(rows, dtype=np.float32))


def load_shard(
    *,
    index: int,
    experts: Sequence[int],
    checkpoint: Checkpoint,
    manifest: ExpertManifest,
    dtype: torch.dtype,
    device: torch.device,
    ops: Ops,
    keep_packed: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> ExpertShard:
    """Read the experts of one shard, and no other bytes of the checkpoint.

    Args:
        keep_packed: leave matrices that are stored in blocks with scales as they are.
        progress: called with the bytes of each tensor read, in the form kept.
    """
    begun, layers = time.monotonic(), {}
    # One for all layers: it reuses the memory of a dense matrix for the next one.
    packer = Packer(checkpoint, ops, dtype, device, keep_packed, progress)
    for layer in manifest.layers:
        held = [manifest.source(layer, expert) for expert in experts]
        gate_up = tuple(packer.read_matrix(one.gate_up, gate_up=True) for one in held)
        down = tuple(packer.read_matrix(one.down) for one in held)
        biases = (_biases(packer, [one.gate_up_bias for one in held]), _biases(packer, [one.down_bias for one in held]))
        layers[layer] = ops.prepare_weights(gate_up, down, manifest.form, *biases)
    weights_bytes = len(layers) * len(experts) * manifest.bytes_per_expert(dtype, keep_packed)
    return ExpertShard(index, experts, layers, ops, device, weights_bytes, time.monotonic() - begun)


def _biases(packer: Packer, sources: list[TensorSource | None]) -> Tensor | None:
    """The experts' biases under one another; None where the family has none."""
    biases = [packer.read(source) for source in sources if source is not None]
    return torch.stack(biases) if biases else None
