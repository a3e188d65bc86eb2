"""Where each token of a request went, for those who asked for it."""

from collections.abc import Sequence

from experts.placement import Placement
from experts.routing import Routing
from router_service.messages import LayerRouting
from router_service.request import Request
from router_service.step_batch import Segment


def trace_routing(
    requests: Sequence[Request],
    segments: Sequence[Segment],
    routings: Sequence[tuple[int, Routing]],
    placement: Placement,
) -> None:
    """Append to each request that wants it one list of layers for each position of its segment."""
    for request, segment in zip(requests, segments, strict=True):
        if request.return_routing:
            rows = range(segment.start, segment.start + segment.length)
            request.routing += [[_layer(layer, routing, row, placement) for layer, routing in routings] for row in rows]


def _layer(layer: int, routing: Routing, row: int, placement: Placement) -> LayerRouting:
    experts = routing.expert_ids_TK[row]
    shards = placement.shard_of_E[experts].tolist()
    return LayerRouting(layer, experts.tolist(), routing.weights_TK[row].tolist(), shards)
