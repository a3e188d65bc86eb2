"""A shard's experts: their weights in memory, and the sum over the experts of a call.

D hidden, N rows of a reply.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.manifest import ExpertManifest
from experts.placement import Placement
from experts.shard.held.layer import ExpertCopy, HeldLayer
from experts.shard.held.loader import ExpertLoader
from experts.shard.held.states import CopyStates
from experts.transport.call import ExpertCall, Form
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
    """The experts `held[layer]`, ascending, of each layer; `layers[layer]` has their weights in that order.

    A layer of which nothing is held has no weights. `epoch` is that of the placement that gives the experts to this
    shard. What is held may be replaced while any threads compute (`replace`): each call is computed by one snapshot of
    its layer, which it keeps until it ends. `states` has the copies that come and go.
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
        each = weights_bytes // max(1, sum(map(len, held.values())))
        self.index = index
        self.epoch = epoch
        self.layers = tuple(held)
        self.load_seconds = load_seconds
        self.states = CopyStates()
        self._ops = ops
        self._device = device
        self._held = {
            layer: HeldLayer(tuple(ExpertCopy(layer, expert, each) for expert in experts), layers[layer])
            for layer, experts in held.items()
            if experts
        }

    @property
    def held(self) -> dict[int, tuple[int, ...]]:
        """The experts of each of the model's MoE layers that are held now."""
        held = self._held
        return {layer: held[layer].experts if layer in held else () for layer in self.layers}

    @property
    def snapshot(self) -> Mapping[int, HeldLayer]:
        """What is held now, without the layers of which nothing is; it does not change."""
        return self._held

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights that are held now."""
        return sum(layer.nbytes for layer in self._held.values())

    def replace(self, changed: Mapping[int, HeldLayer | None]) -> None:
        """Hold these layers from now on instead of the ones before; None for nothing of a layer.

        Calls see all of it or nothing. One thread at a time replaces.
        """
        after = {**self._held, **changed}
        self._held = {layer: held for layer, held in after.items() if held is not None}

    def compute(self, call: ExpertCall) -> Tensor:
        """Return y_ND, float32 in host memory, of the call's form: for each row the weighted sum of its experts that
        live here, or the weighted output of each assignment.

        Raises:
            NotHeldError: the call names a layer or an expert that this shard does not hold.
            ValueError: it is of another dtype or width.
        """
        return self.compute_by(self.check(call), call)

    def compute_by(self, layer: HeldLayer, call: ExpertCall) -> Tensor:
        """As `compute`, by a layer that holds all experts of the call, whether or not it is held here."""
        rows_A = torch.from_numpy(call.rows_A.astype(np.int64)).to(self._device)
        slots_A = torch.from_numpy(layer.slots_of_E[call.experts_A]).to(self._device)
        weights_A = torch.from_numpy(call.weights_A.copy()).to(self._device)
        op = self._ops.expert_rows if call.form is Form.EACH else self._ops.expert_ffn
        return op(call.x_RD.to(self._device), layer.weights, rows_A, slots_A, weights_A).cpu()

    def check(self, call: ExpertCall) -> HeldLayer:
        """Return the layer as it is held now.

        Raises:
            NotHeldError, ValueError: see `compute`.
        """
        layer = self._held.get(call.layer)
        if layer is not None and not (len(call.experts_A) and layer.misses(call.experts_A)) and layer.fits(call.x_RD):
            return layer
        error = self._refusal(layer, call)
        del layer  # or its experts would stay as long as the traceback does
        raise error

    def _refusal(self, layer: HeldLayer | None, call: ExpertCall) -> ValueError:
        missing = sorted(set(call.experts_A.tolist()) - set(layer.experts if layer else ()))
        if layer is None or missing:
            return NotHeldError(self.index, call.layer, missing)
        wanted = f"{layer.weights.dtype} of width {layer.weights.hidden}"
        return ValueError(f"shard {self.index} computes {wanted}, not {call.x_RD.dtype} of width {call.x_RD.shape[1]}")

    def warm_up(self) -> None:
        """Compute a few rows, as kernels are compiled at the first call of a size and no request should wait."""
        for rows in range(1, WARM_UP_ROWS + 1):
            self.compute_sample(rows)

    def compute_sample(self, rows: int) -> bool:
        """Compute `rows` rows of zeros for the first expert of the first layer; whether there is one."""
        layer = next(iter(self._held.values()), None)
        if layer is None:
            return False
        self.compute_by(layer, sample_call(layer, np.full(rows, layer.experts[0], np.int32)))
        return True


def sample_call(layer: HeldLayer, experts_A: NDArray[np.int32]) -> ExpertCall:
    """A call of a row of zeros for each of these experts of a layer."""
    x_RD = torch.zeros((len(experts_A), layer.weights.hidden), dtype=layer.weights.dtype)
    rows_A = np.arange(len(experts_A), dtype=np.int32)
    return ExpertCall(layer.copies[0].layer, x_RD, rows_A, experts_A, np.ones(len(experts_A), np.float32))


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
    """Read the experts that `placement` gives to one shard, maybe none, and no other bytes of the checkpoint.

    Args:
        keep_packed: leave matrices that are stored in blocks with scales as they are.
        progress: called with the bytes of each tensor read, in the form kept.
    """
    begun = time.monotonic()
    loader = ExpertLoader(checkpoint, manifest, dtype, device, ops, keep_packed, progress)
    shard = ExpertShard(index, dict.fromkeys(manifest.layers, ()), {}, ops, device, 0, 0.0, placement.epoch)
    for layer in manifest.layers:
        if ids := placement.layer(layer).held_by(index):
            shard.replace({layer: loader.together([loader.read(layer, expert) for expert in ids])})
    shard.load_seconds = time.monotonic() - begun
    return shard
