"""What a shard holds of one layer, as a snapshot that never changes: experts come and go by another one in its place.

E experts held, D hidden, F expert FFN size, A assignments of a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.transport.call import largest
from kernels.formats.quantized import Matrix
from kernels.ops import Ops
from kernels.weights import ExpertForm, ExpertWeights, bias_of


@dataclass(frozen=True, eq=False)
class ExpertCopy:
    """One expert's presence in this process; as long as any snapshot has it, so long its `nbytes` are taken."""

    layer: int
    expert: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class LoadedExpert:
    """A copy and its matrices from `Ops.prepare_matrix`: gate_up [2F, D], down [D, F], biases [2F] and [D]."""

    copy: ExpertCopy
    gate_up: Matrix
    down: Matrix
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None

    @property
    def expert(self) -> int:
        """Its number among the layer's experts."""
        return self.copy.expert


@dataclass(frozen=True, eq=False)
class HeldLayer:
    """One or more experts of a layer, ascending, and their weights in that order."""

    copies: tuple[ExpertCopy, ...]
    weights: ExpertWeights

    @cached_property
    def experts(self) -> tuple[int, ...]:
        """The experts that are held, ascending."""
        return tuple(copy.expert for copy in self.copies)

    @cached_property
    def slots_of_E(self) -> NDArray[np.int64]:
        """By expert id: its place in the weights, -1 where it is not held."""
        slots_of_E = np.full(1 + self.experts[-1], -1)
        slots_of_E[list(self.experts)] = np.arange(len(self.experts))
        return slots_of_E

    # Asked for with each call, and found by several steps.
    @cached_property
    def _dtype(self) -> torch.dtype:
        return self.weights.dtype

    @cached_property
    def _hidden(self) -> int:
        return self.weights.hidden

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(copy.nbytes for copy in self.copies)

    def misses(self, experts_A: NDArray[np.int32]) -> bool:
        """Whether any of these experts, one or more, is not held."""
        return largest(experts_A) >= len(self.slots_of_E) or bool((self.slots_of_E[experts_A] < 0).any())

    def fits(self, x_RD: Tensor) -> bool:
        """Whether rows have the dtype and the width that the experts compute with."""
        return x_RD.dtype == self._dtype and x_RD.shape[1] == self._hidden

    def loaded(self) -> list[LoadedExpert]:
        """Each expert by itself; its matrices are those of `weights`, or parts of their memory."""
        return [
            LoadedExpert(
                copy,
                self.weights.gate_up[slot],
                self.weights.down[slot],
                bias_of(slot, self.weights.gate_up_bias),
                bias_of(slot, self.weights.down_bias),
            )
            for slot, copy in enumerate(self.copies)
        ]


def held_layer(experts: Iterable[LoadedExpert], form: ExpertForm, ops: Ops) -> HeldLayer:
    """Put experts of one layer, at least one, together.

    Matrices are taken as they are, unless the backend wants them stacked (Triton without quantized ones): there all are
    copied, and what they lay in before goes with the snapshots that have it. Biases are always copied.
    """
    ordered = sorted(experts, key=lambda one: one.expert)
    gate_up, down = tuple(one.gate_up for one in ordered), tuple(one.down for one in ordered)
    biases = _stacked([one.gate_up_bias for one in ordered]), _stacked([one.down_bias for one in ordered])
    return HeldLayer(tuple(one.copy for one in ordered), ops.prepare_weights(gate_up, down, form, *biases))


def _stacked(biases: Sequence[Tensor | None]) -> Tensor | None:
    """The experts' biases under one another; None where the family has none."""
    found = [bias for bias in biases if bias is not None]
    return torch.stack(found) if found else None
