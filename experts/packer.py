"""Matrices read from a checkpoint, one at a time, into the layout that a backend computes with."""

from collections.abc import Callable

import torch
from torch import Tensor

from experts.checkpoint import Checkpoint, Copy
from kernels.select import Ops


class Packer:
    """Reads in `dtype` on `device` and packs with `ops`, so that no two matrices are ever there in both forms.

    The dense form of a packed matrix serves the next one of that shape. Made afresh for each, they would leave holes
    between the packed ones, a third of the weights in all.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        ops: Ops,
        dtype: torch.dtype,
        device: torch.device,
        progress: Callable[[int], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._ops = ops
        self._dtype = dtype
        self._device = device
        self._progress = progress
        self._spare: Tensor | None = None

    def read(self, shape: tuple[int, ...], parts: Callable[[Tensor], list[Copy]]) -> Tensor:
        """Read a tensor that `parts` says how to fill."""
        return self._fill(self._empty(shape), parts)

    def read_packed(self, shape: tuple[int, ...], parts: Callable[[Tensor], list[Copy]]) -> Tensor:
        """As `read`, for a matrix that only `Ops.linear` or `Ops.expert_ffn` will see."""
        if self._spare is None or self._spare.shape != shape:
            self._spare = None  # let go of it before the next one is there
            self._spare = self._empty(shape)
        dense_OI = self._fill(self._spare, parts)
        packed_OI = self._ops.pack(dense_OI)
        if packed_OI is dense_OI:
            self._spare = None
        return packed_OI

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)

    def _fill(self, out: Tensor, parts: Callable[[Tensor], list[Copy]]) -> Tensor:
        self._checkpoint.load(parts(out), self._progress)
        return out
