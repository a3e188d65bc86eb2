"""A shard's experts: their weights in memory, and the sum of a question's experts.

E experts held here, D hidden, F expert FFN size, R rows of a question.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from experts.call import ExpertCall
from experts.checkpoint import Checkpoint, Copy
from experts.manifest import ExpertManifest
from kernels.select import Ops
from kernels.weights import ExpertWeights


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
        """Return y_RD, float32 in host memory: for each row the weighted sum of its experts that live here.

        Raises:
            ValueError: the question names a layer or an expert that this shard does not hold, or another dtype.
        """
        layer = self._check(call)
        rows_A = torch.from_numpy(call.rows_A.astype(np.int64)).to(self._device)
        slots_A = torch.from_numpy(call.slots_A.astype(np.int64)).to(self._device)
        weights_A = torch.from_numpy(call.weights_A.copy()).to(self._device)
        return self._ops.expert_ffn(call.x_RD.to(self._device), layer, rows_A, slots_A, weights_A).cpu()

    def _check(self, call: ExpertCall) -> ExpertWeights:
        layer = self.layers.get(call.layer)
        if layer is None:
            raise ValueError(f"shard {self.index} holds no experts of layer {call.layer}")
        if len(call.slots_A) and call.slots_A.max() >= len(self.experts):
            raise ValueError(f"shard {self.index} holds {len(self.experts)} experts, not number {call.slots_A.max()}")
        if call.x_RD.dtype != layer.dtype or call.x_RD.shape[1] != layer.hidden:
            kept = f"{layer.dtype} of width {layer.hidden}"
            raise ValueError(f"shard {self.index} computes {kept}, not {call.x_RD.dtype} of width {call.x_RD.shape[1]}")
        return layer


def load_shard(
    index: int,
    experts: Sequence[int],
    checkpoint: Checkpoint,
    manifest: ExpertManifest,
    dtype: torch.dtype,
    device: torch.device,
    ops: Ops,
    progress: Callable[[int], None] = lambda _: None,
) -> ExpertShard:
    """Read the experts of one shard, and no other bytes of the checkpoint.

    Args:
        progress: called with the bytes of each tensor read, in the dtype kept.
    """
    begun, layers = time.monotonic(), {}
    for layer in manifest.layers():
        gate_up_E2FD = torch.empty((len(experts), 2 * manifest.ffn, manifest.hidden), dtype=dtype, device=device)
        down_EDF = torch.empty((len(experts), manifest.hidden, manifest.ffn), dtype=dtype, device=device)
        checkpoint.load(_copies(layer, experts, manifest, gate_up_E2FD, down_EDF), progress)
        layers[layer] = ops.prepare_weights(gate_up_E2FD, down_EDF)
    weights_bytes = len(layers) * len(experts) * manifest.elements_per_expert * dtype.itemsize
    return ExpertShard(index, experts, layers, ops, device, weights_bytes, time.monotonic() - begun)


def _copies(
    layer: int, experts: Sequence[int], manifest: ExpertManifest, gate_up_E2FD: Tensor, down_EDF: Tensor
) -> Iterator[Copy]:
    for slot, expert in enumerate(experts):
        names = manifest.tensors[layer, expert]
        yield Copy(names.gate, gate_up_E2FD[slot, : manifest.ffn])
        yield Copy(names.up, gate_up_E2FD[slot, manifest.ffn :])
        yield Copy(names.down, down_EDF[slot])
