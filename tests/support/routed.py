"""The routing of positions as objects, made of the messages' arrays and made into them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from router_service.engine.request import Event
from router_service.protocol.routing_part import ID, VALUE, RoutingPart, arrays_of


@dataclass(frozen=True)
class Layer:
    """Where one token went in one MoE layer."""

    layer: int
    experts: list[int]
    weights: list[float]
    shards: list[int]
    scores: list[tuple[int, float]] = field(default_factory=list)


def positions_of(part: RoutingPart) -> list[list[Layer]]:
    """A list of layers for each position."""
    arrays = arrays_of(part)
    return [[_layer(part, arrays, p, number) for number in range(len(part.layers))] for p in range(part.positions)]


def _layer(part: RoutingPart, arrays, position: int, number: int) -> Layer:  # type: ignore[no-untyped-def]
    at = position, number
    scores = zip(arrays.scored_experts_PLN[at].tolist(), arrays.scores_PLN[at].tolist(), strict=True)
    columns = (array[at].tolist() for array in (arrays.experts_PLK, arrays.weights_PLK, arrays.shards_PLK))
    return Layer(part.layers[number], *columns, list(scores))


def routing_of(events: Iterable[Event]) -> list[list[Layer]]:
    """The routing of a request's positions, which must come in order and once."""
    parts = [rows.pack() for event in events for rows in event.routing]
    for part, following in pairwise(parts):
        assert following.first == part.first + part.positions
    return [position for part in parts for position in positions_of(part)]


def part_of(first: int, positions: Sequence[Sequence[Layer]]) -> RoutingPart:
    """The message of positions from `first` on; all must have the same layers."""

    def packed(dtype: np.dtype, values: list) -> bytes:  # type: ignore[type-arg]
        return np.array(values, dtype=dtype).tobytes()

    return RoutingPart(
        first=first,
        positions=len(positions),
        layers=[one.layer for one in positions[0]],
        experts=packed(ID, [[one.experts for one in at] for at in positions]),
        weights=packed(VALUE, [[one.weights for one in at] for at in positions]),
        shards=packed(ID, [[one.shards for one in at] for at in positions]),
        scored_experts=packed(ID, [[[e for e, _ in one.scores] for one in at] for at in positions]),
        scores=packed(VALUE, [[[s for _, s in one.scores] for one in at] for at in positions]),
    )
