"""One forward pass: the backbone on the router, the experts through the pool, layer by layer.

T tokens, D hidden, V vocabulary, L rows whose logits are wanted.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.phases import LayerTrip
from experts.pool import ExpertPool
from experts.routing import Routing
from experts.transport.base import ShardUnavailable
from kernels.select import Ops
from router_service.engine.step.gating import best_scores, route
from router_service.engine.step.stage import STAGES, Stage
from router_service.models.backbone import Backbone
from router_service.models.step_batch import Segment, StepBatch

GateScores = tuple[Tensor, Tensor]


@dataclass(slots=True)
class StepTrace:
    """What a step recorded: nanoseconds by stage, each MoE layer's trip and routing, lost tokens, failed shards.

    `scored_rows` are the rows whose requests ask for the gate's scores; `scores` holds them for each MoE layer.
    """

    stages_ns: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    trips: list[LayerTrip] = field(default_factory=list)
    routings: list[tuple[int, Routing]] = field(default_factory=list)
    failures: dict[int, ShardUnavailable] = field(default_factory=dict)
    scored_rows: list[int] = field(default_factory=list)
    scores: list[GateScores] = field(default_factory=list)
    lost_T: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def complete(self, segments: Sequence[Segment]) -> list[int]:
        """Return the indices of the segments without a lost token."""
        numbered = enumerate(segments)
        return [number for number, part in numbered if not self.lost_T[part.start : part.start + part.length].any()]


class Stopwatch:
    """Charges the time since the last mark to a stage. On a GPU it synchronizes first: kernels run asynchronously."""

    def __init__(self, stages_ns: dict[Stage, int], device: torch.device) -> None:
        self._stages_ns = stages_ns
        self._device = device
        self._last_ns = time.monotonic_ns()

    def mark(self, stage: Stage) -> None:
        """Charge the time since the last mark to `stage`."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.monotonic_ns()
        self._stages_ns[stage] += now - self._last_ns
        self._last_ns = now

    def mark_trip(self, trip: LayerTrip) -> None:
        """Split a trip's time as the trip measured it; sending counts as packing."""
        now = time.monotonic_ns()
        self._stages_ns[Stage.WAIT] += trip.exposed_ns
        self._stages_ns[Stage.REDUCE] += trip.reduce_ns
        self._stages_ns[Stage.PACK] += now - self._last_ns - trip.exposed_ns - trip.reduce_ns
        self._last_ns = now


def forward(
    backbone: Backbone,
    pool: ExpertPool,
    ops: Ops,
    batch: StepBatch,
    trace: StepTrace,
    progress: Callable[[], None] = lambda: None,
    hidden: Callable[[Tensor], None] = lambda _: None,
) -> Tensor | None:
    """Return logits_LV of the batch's `logit_rows_L`; None if unavailable shards have lost every token.

    A lost token stays in the batch as zeros and is sent to no expert, so that the rest of the step still completes.

    Args:
        progress: called after each part of a layer, so that a long prompt is not taken for a hang.
        hidden: called with x_TD behind the last layer, of all rows; its time is charged to sampling.
    """
    watch = Stopwatch(trace.stages_ns, batch.token_ids_T.device)
    trace.lost_T = np.zeros(len(batch.token_ids_T), dtype=bool)
    x_TD, by = backbone.embed(batch)
    watch.mark(Stage.OTHER)
    for layer in range(backbone.spec.layers):
        x_TD = backbone.attention(layer, x_TD, by, batch)
        h_TD = backbone.feed_forward_input(layer, x_TD)
        watch.mark(Stage.ATTENTION)
        progress()
        if layer in backbone.sparse_layers:
            x_TD = x_TD + _experts(backbone, pool, ops, layer, h_TD, trace, watch)
            # All of these sequences will repeat the step, so the remaining layers would be computed for nothing.
            if trace.lost_T.all():
                return None
        else:
            x_TD = x_TD + backbone.dense(layer, h_TD)
        watch.mark(Stage.OTHER)
        progress()
    hidden(x_TD)
    watch.mark(Stage.SAMPLE)
    logits_LV = backbone.logits(x_TD, batch)
    watch.mark(Stage.OTHER)
    return logits_LV


def _experts(
    backbone: Backbone, pool: ExpertPool, ops: Ops, layer: int, h_TD: Tensor, trace: StepTrace, watch: Stopwatch
) -> Tensor:
    logits_TE, correction_E = backbone.gate_logits(layer, h_TD), backbone.gate_correction(layer)
    routing = route(backbone.spec.gate, logits_TE, ops, trace.lost_T, correction_E)
    # Only for the rows that ask: ranking all experts of a whole prompt would cost every step.
    if rows := trace.scored_rows:
        chosen_RK = torch.from_numpy(routing.expert_ids_TK[rows]).to(logits_TE.device)
        trace.scores.append(best_scores(backbone.spec.gate, logits_TE[rows], chosen_RK, correction_E))
    watch.mark(Stage.GATE)
    dispatched = pool.dispatch(layer, h_TD, routing)
    shared_TD = None
    if backbone.spec.shared is not None:  # while the shards work
        watch.mark(Stage.PACK)
        shared_TD = backbone.shared(layer, h_TD)
        watch.mark(Stage.SHARED_EXPERT)
    combined = pool.combine(dispatched, h_TD.device, h_TD.shape[1])
    watch.mark_trip(combined.trip)
    trace.trips.append(combined.trip)
    trace.routings.append((layer, routing))
    if combined.failures:
        trace.failures |= {failure.shard: failure for failure in combined.failures}
        trace.lost_T[combined.lost_tokens] = True
    y_TD = combined.y_TD.to(h_TD.dtype)
    return y_TD if shared_TD is None else y_TD + shared_TD
