"""Reads single experts of a checkpoint into the form that a shard's backend computes with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from experts.checkpoint.directory import Checkpoint
from experts.checkpoint.manifest import ExpertManifest
from experts.checkpoint.packer import Packer
from experts.checkpoint.source import TensorSource
from experts.shard.held.layer import ExpertCopy, HeldLayer, LoadedExpert, held_layer
from kernels.ops import Backend, Ops


class ExpertLoader:
    """Reads experts of `checkpoint`, as `manifest` says where they lie, in `dtype` on `device` for `ops`.

    One thread at a time uses it: the memory of a dense matrix is used again for the next one, until `rest`.

    Args:
        keep_packed: leave matrices that are stored in blocks with scales as they are.
        progress: called with the bytes of each tensor read, in the form kept.
        before: called before each piece is read with its bytes as stored, a MiB at most or a row.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        manifest: ExpertManifest,
        dtype: torch.dtype,
        device: torch.device,
        ops: Ops,
        keep_packed: bool = False,
        progress: Callable[[int], None] = lambda _: None,
        before: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.manifest = manifest
        self.device = device
        self.ops = ops
        self.before = before
        self._dtype = dtype
        # An expert has matrices of two shapes, read in turn.
        self._packer = Packer(checkpoint, ops, dtype, device, keep_packed, progress, lambda n: self.before(n), shapes=2)
        self.expert_bytes = manifest.bytes_per_expert(dtype, keep_packed)

    def read(self, layer: int, expert: int) -> LoadedExpert:
        """Read one expert.

        Raises:
            CheckpointError: the checkpoint does not hold it as it should.
            OSError: it could not be read.
        """
        source = self.manifest.source(layer, expert)
        return LoadedExpert(
            ExpertCopy(layer, expert, self.expert_bytes),
            self._packer.read_matrix(source.gate_up, gate_up=True),
            self._packer.read_matrix(source.down),
            self._bias(source.gate_up_bias),
            self._bias(source.down_bias),
        )

    def rest(self) -> None:
        """Let go of the memory that reading reuses."""
        self._packer.rest()

    def together(self, experts: list[LoadedExpert]) -> HeldLayer:
        """Experts of one layer, one or more, as the backend computes with them."""
        return held_layer(experts, self.manifest.form, self.ops)

    def scratch_bytes(self, most_held: int) -> int:
        """Bytes that reading takes at most beside what it reads, for a layer of which so many experts are held then.

        An expert's dense matrices; as many again where one in blocks is decoded or rounded. A backend that stacks
        matrices copies a layer.
        """
        dense = 2 * self.manifest.elements_per_expert * self._dtype.itemsize
        return dense + (most_held * self.expert_bytes if self.ops.backend is Backend.TRITON else 0)

    def _bias(self, source: TensorSource | None) -> Tensor | None:
        return None if source is None else self._packer.read(source)
