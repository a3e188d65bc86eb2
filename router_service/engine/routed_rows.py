"""The routing of a request's rows of one step, as references to the step's arrays until a Front's thread packs it.

T rows of the step, R of them wanted, L MoE layers, K experts chosen, N experts scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts.routing import Routing
from router_service.protocol.routing_part import ID, VALUE, RoutingPart

# Rows that are converted at once: little enough that no other stream's output waits, enough that a batch of single
# tokens is converted as a whole.
BLOCK_ROWS = 128


class Column:
    """One array [R, L, W] of a step, converted block by block of rows, each on first use.

    Two threads may do it at the same time, with the same result. `row_bytes` is the size of one row of all layers.

    Args:
        layers: each layer's array [T, W].
    """

    def __init__(
        self,
        layers: Sequence[NDArray[Any]],
        rows_R: NDArray[np.int64],
        dtype: np.dtype[Any],
    ) -> None:
        self._layers = layers
        self._rows_R = rows_R
        self._dtype = dtype
        self._blocks: dict[int, NDArray[Any]] = {}
        self.row_bytes: int = sum(layer_TW.shape[1] for layer_TW in layers) * dtype.itemsize

    def bytes_of(self, start: int, stop: int) -> bytes:
        """Rows `start` to `stop`, C-contiguous."""
        numbers = range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS))
        return b"".join(self._part(number, start, stop) for number in numbers)

    def _part(self, number: int, start: int, stop: int) -> bytes:
        at = number * BLOCK_ROWS
        if (block := self._blocks.get(number)) is None:
            block = self._blocks[number] = self._convert(self._rows_R[at : at + BLOCK_ROWS])
        return block[max(0, start - at) : stop - at].tobytes()

    def _convert(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        block = np.stack([layer_TW[rows] for layer_TW in self._layers], axis=1)
        return block.astype(self._dtype)


@dataclass(frozen=True)
class StepRouting:
    """The routing of the wanted rows of one step. Making one costs the engine's thread O(layers).

    The arrays in the form of the wire are made when they are sent, and once for all requests of the step.

    Args:
        shards: for each layer, who has computed each chosen expert, [T, K].
        rows_R: the rows of the step whose routing is wanted.
        scores: for each layer scores [R', N] and expert ids [R', N], best first, of rows that want scores.
    """

    layers: tuple[int, ...]
    routings: tuple[Routing, ...]
    shards: tuple[NDArray[np.int64], ...]
    rows_R: NDArray[np.int64]
    scores: tuple[tuple[NDArray[np.float32], NDArray[np.int64]], ...] = ()

    @cached_property
    def chosen(self) -> dict[str, Column]:
        """The chosen experts, their weights and shards, by the names of the message's fields."""
        return {
            "experts": Column([routing.expert_ids_TK for routing in self.routings], self.rows_R, ID),
            "weights": Column([routing.weights_TK for routing in self.routings], self.rows_R, VALUE),
            "shards": Column(self.shards, self.rows_R, ID),
        }

    @cached_property
    def ranked(self) -> dict[str, Column]:
        """The scored experts and their scores, in the same way; their rows are those that want scores."""
        rows_R = np.arange(len(self.scores[0][0]))
        return {
            "scored_experts": Column([ids_RN for _, ids_RN in self.scores], rows_R, ID),
            "scores": Column([scores_RN for scores_RN, _ in self.scores], rows_R, VALUE),
        }

    def position_bytes(self, scored: bool) -> int:
        """Size of one position's arrays."""
        columns = self.chosen | self.ranked if scored else self.chosen
        return sum(column.row_bytes for column in columns.values())


@dataclass(frozen=True, slots=True)
class RoutedRows:
    """Consecutive positions of a request from `first` on: `count` rows of `step` from `start` on.

    `scored` is the first of their rows of scores, None if the request wants none.
    """

    step: StepRouting
    first: int
    start: int
    count: int
    scored: int | None = None

    @property
    def nbytes(self) -> int:
        """About the size of the packed part."""
        return self.count * self.step.position_bytes(self.scored is not None)

    def pieces(self, most_bytes: int) -> "list[RoutedRows]":
        """Split by positions so that each piece packs to at most `most_bytes`, but has one position at least."""
        step = max(1, most_bytes // max(1, self.step.position_bytes(self.scored is not None)))
        return [self._part(at, min(step, self.count - at)) for at in range(0, self.count, step)]

    def pack(self) -> RoutingPart:
        """Return the message."""
        step = self.step
        arrays = {name: one.bytes_of(self.start, self.start + self.count) for name, one in step.chosen.items()}
        if (at := self.scored) is not None:
            arrays |= {name: one.bytes_of(at, at + self.count) for name, one in step.ranked.items()}
        return RoutingPart(self.first, self.count, list(step.layers), **arrays)

    def _part(self, at: int, count: int) -> "RoutedRows":
        scored = None if self.scored is None else self.scored + at
        return replace(self, first=self.first + at, start=self.start + at, count=count, scored=scored)
