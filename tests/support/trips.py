"""The trips that routings would make, each shard asked for what it holds, with no time spent."""

from collections import Counter
from collections.abc import Iterable

from experts.division.grouping import group_by_block
from experts.placement import Placement
from experts.routing import Routing
from experts.timing.phase import PHASES
from experts.timing.phases import CallPhases, LayerTrip


def trips_of(routings: Iterable[tuple[int, Routing]], placement: Placement) -> list[LayerTrip]:
    """One trip a layer, each block asked of its home."""
    return [_trip(layer, routing, placement) for layer, routing in routings]


def _trip(layer: int, routing: Routing, placement: Placement) -> LayerTrip:
    placed, pairs, experts = placement.layer(layer), Counter[int](), Counter[int]()
    for group in group_by_block(routing, placed):
        home = placed.blocks[group.block][0]
        pairs[home] += len(group.rows_A)
        experts[home] += len(set(group.experts_A.tolist()))
    nothing = (0,) * len(PHASES)
    calls = [
        CallPhases(shard, nothing, count, count, 0, 0, 0, experts=experts[shard]) for shard, count in pairs.items()
    ]
    return LayerTrip.of(layer, calls, pack_ns=0, exposed_ns=0, reduce_ns=0, waiting_ns=0)
