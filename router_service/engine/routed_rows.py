"""The routing of a request's rows of one step, as references to the step's arrays until a Front's thread packs it.

T rows of the step, R of them wanted, L MoE layers, K experts chosen, N experts scored.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from experts.routing import Routing
from router_service.protocol.routing_part import ID, VALUE, RoutingPart


@dataclass(frozen=True)
class StepRouting:
    """The routing of the wanted rows of one step. Making one costs the engine's thread O(layers).

    The arrays in the form of the wire are made on first use and once for all requests of the step. Two threads may do
    it at the same time, with the same result.

    Args:
        rows_R: the rows of the step whose routing is wanted.
        scores: for each layer scores [R', N] and expert ids [R', N], best first, of rows that want scores.
    """

    layers: tuple[int, ...]
    routings: tuple[Routing, ...]
    shard_of_E: NDArray[np.int64]
    rows_R: NDArray[np.int64]
    scores: tuple[tuple[NDArray[np.float32], NDArray[np.int64]], ...] = ()

    @cached_property
    def experts_RLK(self) -> NDArray[np.uint16]:
        """The chosen experts."""
        return np.stack([routing.expert_ids_TK[self.rows_R] for routing in self.routings], axis=1).astype(ID)

    @cached_property
    def weights_RLK(self) -> NDArray[np.float32]:
        """Their weights."""
        return np.stack([routing.weights_TK[self.rows_R] for routing in self.routings], axis=1).astype(VALUE)

    @cached_property
    def shards_RLK(self) -> NDArray[np.uint16]:
        """The shards that held them."""
        return self.shard_of_E.astype(ID)[self.experts_RLK]

    @cached_property
    def scored_experts_RLN(self) -> NDArray[np.uint16]:
        """The experts with the best scores; its rows are those that want scores."""
        return np.stack([ids_RN for _, ids_RN in self.scores], axis=1).astype(ID)

    @cached_property
    def scores_RLN(self) -> NDArray[np.float32]:
        """Their scores."""
        return np.stack([scores_RN for scores_RN, _ in self.scores], axis=1).astype(VALUE)

    def position_bytes(self, scored: bool) -> int:
        """Size of one position's arrays."""
        chosen: int = self.routings[0].expert_ids_TK.shape[1] * (2 * ID.itemsize + VALUE.itemsize)
        ranked: int = self.scores[0][0].shape[1] * (ID.itemsize + VALUE.itemsize) if scored else 0
        return len(self.layers) * (chosen + ranked)


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
        step, rows = self.step, slice(self.start, self.start + self.count)
        ranked = {}
        if self.scored is not None:
            rows_N = slice(self.scored, self.scored + self.count)
            ranked = {
                "scored_experts": step.scored_experts_RLN[rows_N].tobytes(),
                "scores": step.scores_RLN[rows_N].tobytes(),
            }
        return RoutingPart(
            first=self.first,
            positions=self.count,
            layers=list(step.layers),
            experts=step.experts_RLK[rows].tobytes(),
            weights=step.weights_RLK[rows].tobytes(),
            shards=step.shards_RLK[rows].tobytes(),
            **ranked,
        )

    def _part(self, at: int, count: int) -> "RoutedRows":
        scored = None if self.scored is None else self.scored + at
        return replace(self, first=self.first + at, start=self.start + at, count=count, scored=scored)
