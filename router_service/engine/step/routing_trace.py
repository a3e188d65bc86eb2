"""Which experts each token of a request was routed to, for requests with `return_routing`."""

from collections.abc import Sequence

from experts.placement import Placement
from experts.routing import Routing
from router_service.engine.request import Request
from router_service.engine.step.forward import StepTrace
from router_service.models.step_batch import Segment
from router_service.protocol.messages import LayerRouting

Scores = list[tuple[int, float]]


def scored_rows(requests: Sequence[Request], segments: Sequence[Segment]) -> list[int]:
    """The rows of requests that ask for the gate's scores beside the routing."""
    return [
        row
        for request, segment in zip(requests, segments, strict=True)
        if request.return_routing and request.return_scores
        for row in _rows(segment)
    ]


def trace_routing(
    requests: Sequence[Request],
    starts: Sequence[int],
    segments: Sequence[Segment],
    trace: StepTrace,
    placement: Placement,
) -> None:
    """Append to each request that wants it one list of layers for each position of its segment.

    Args:
        starts: the position of each segment's first token. What is computed again after a preemption is left out.
    """
    scores = _scores_by_row(trace)
    for request, start, segment in zip(requests, starts, segments, strict=True):
        if request.return_routing:
            rows = _rows(segment)[max(0, request.routed - start) :]
            request.add_routing([_layers(trace, row, scores.get(row), placement) for row in rows])


def _rows(segment: Segment) -> range:
    return range(segment.start, segment.start + segment.length)


def _scores_by_row(trace: StepTrace) -> dict[int, list[Scores]]:
    """For each scored row, its pairs in each MoE layer."""
    by_row: dict[int, list[Scores]] = {row: [] for row in trace.scored_rows}
    for scores_RN, ids_RN in trace.scores:
        for row, ids, scores in zip(trace.scored_rows, ids_RN.tolist(), scores_RN.tolist(), strict=True):
            by_row[row].append(list(zip(ids, scores, strict=True)))
    return by_row


def _layers(trace: StepTrace, row: int, scores: list[Scores] | None, placement: Placement) -> list[LayerRouting]:
    return [
        _layer(layer, routing, row, [] if scores is None else scores[number], placement)
        for number, (layer, routing) in enumerate(trace.routings)
    ]


def _layer(layer: int, routing: Routing, row: int, scores: Scores, placement: Placement) -> LayerRouting:
    experts = routing.expert_ids_TK[row]
    shards = placement.shard_of_E[experts].tolist()
    return LayerRouting(layer, experts.tolist(), routing.weights_TK[row].tolist(), shards, scores)
