"""Which experts each token of a request was routed to, for requests with `return_routing`."""

from collections.abc import Sequence

import numpy as np

from router_service.engine.request import Request
from router_service.engine.routed_rows import RoutedRows, StepRouting
from router_service.engine.step.forward import StepTrace
from router_service.models.step_batch import Segment


def scored_rows(requests: Sequence[Request], segments: Sequence[Segment]) -> list[int]:
    """The rows of requests that ask for the gate's scores beside the routing, in ascending order."""
    return [
        row
        for request, segment in zip(requests, segments, strict=True)
        if request.return_routing and request.return_scores
        for row in range(segment.start, segment.start + segment.length)
    ]


def wants_routing(requests: Sequence[Request]) -> bool:
    """Whether a step is to note which shards have computed each token's experts."""
    return any(request.return_routing for request in requests)


def trace_routing(
    requests: Sequence[Request],
    starts: Sequence[int],
    segments: Sequence[Segment],
    trace: StepTrace,
) -> None:
    """Append to each request that wants it the routing of the positions of its segment.

    What is appended refers to the step's arrays: nothing is copied here for each token.

    Args:
        starts: the position of each segment's first token. What is computed again after a preemption is left out.
    """
    # A request's first position that is not traced yet, and its row.
    fresh: list[tuple[Request, int, int, int]] = []
    for request, start, segment in zip(requests, starts, segments, strict=True):
        first, end = max(request.routed, start), start + segment.length
        if request.return_routing and first < end:
            fresh.append((request, first, end - first, segment.start + first - start))
    if fresh and trace.routings:
        _append(fresh, trace)


def _append(fresh: list[tuple[Request, int, int, int]], trace: StepTrace) -> None:
    step = _step_routing([(row, count) for _, _, count, row in fresh], trace)
    scored_R, at = np.array(trace.scored_rows, dtype=np.int64), 0
    for request, first, count, row in fresh:
        scored = int(np.searchsorted(scored_R, row)) if request.return_scores else None
        request.add_routing(RoutedRows(step, first, at, count, scored))
        at += count


def _step_routing(rows: list[tuple[int, int]], trace: StepTrace) -> StepRouting:
    return StepRouting(
        layers=tuple(layer for layer, _ in trace.routings),
        routings=tuple(routing for _, routing in trace.routings),
        shards=tuple(trace.shards),
        rows_R=np.concatenate([np.arange(row, row + count) for row, count in rows]),
        # Off the accelerator here, so that no other thread touches it.
        scores=tuple((scores_RN.cpu().numpy(), ids_RN.cpu().numpy()) for scores_RN, ids_RN in trace.scores),
    )
