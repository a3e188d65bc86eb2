"""One batch's way through the layers, in turns, so that two batches of a step can take theirs alternately.

T tokens of the batch, D hidden, E experts, R rows whose scores are wanted, K chosen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.flights import Dispatched
from experts.phases import LayerTrip
from experts.pool import ExpertPool
from experts.routing import Routing
from experts.transport.base import ShardUnavailable
from kernels.ops import Ops
from router_service.engine.step.gating import best_scores, route
from router_service.engine.step.stage import Stage
from router_service.engine.step.stopwatch import Stopwatch
from router_service.models.backbone import Backbone
from router_service.models.step_batch import StepBatch

GateScores = tuple[Tensor, Tensor]


@dataclass(slots=True)
class LayerRun:
    """Computes `batch`; each turn ends as soon as a layer's calls to the experts are in flight.

    A lost token stays in the batch as zeros and is sent to no expert, so that the rest still completes. `trips`,
    `routings` and `scores` have an entry for each MoE layer computed. `x_TD` are the rows behind the last layer; None
    until then, and for good if every token is lost (`all_lost`).

    Args:
        lane: which of the connections to a shard carries the calls.
        scored_rows: the rows of the batch whose requests ask for the gate's scores.
        traced: whether `shards` is to have who has computed each MoE layer's pairs, [T, K].
        failures: the step's; by shard, the first of each.
        progress: called after each part of a layer, so that a long prompt is not taken for a hang.
    """

    backbone: Backbone
    pool: ExpertPool
    ops: Ops
    batch: StepBatch
    lane: int
    scored_rows: list[int]
    failures: dict[int, ShardUnavailable]
    traced: bool
    watch: Stopwatch
    progress: Callable[[], None]
    trips: list[LayerTrip] = field(default_factory=list)
    routings: list[tuple[int, Routing]] = field(default_factory=list)
    shards: list[NDArray[np.int64]] = field(default_factory=list)
    scores: list[GateScores] = field(default_factory=list)
    lost_T: NDArray[np.bool_] = field(init=False)
    all_lost: bool = False
    x_TD: Tensor | None = None
    _turns: Iterator[None] = field(init=False)

    def __post_init__(self) -> None:
        self.lost_T = np.zeros(len(self.batch.token_ids_T), dtype=bool)
        self._turns = self._layers()

    def advance(self) -> bool:
        """Take a turn: wait for the calls in flight, then compute up to the next ones. False if it was the last."""
        return next(self._turns, self) is None

    def _layers(self) -> Iterator[None]:
        x_TD, by = self.backbone.embed(self.batch)
        self.watch.mark(Stage.OTHER)
        for layer in range(self.backbone.spec.layers):
            x_TD = self.backbone.attention(layer, x_TD, by, self.batch)
            h_TD = self.backbone.feed_forward_input(layer, x_TD)
            self.watch.mark(Stage.ATTENTION)
            self.progress()
            if layer in self.backbone.sparse_layers:
                dispatched, shared_TD = self._dispatch(layer, h_TD)
                yield
                x_TD = x_TD + self._combine(dispatched, shared_TD, h_TD)
                # All of these sequences will repeat the step, so the remaining layers would be computed for nothing.
                if self.all_lost:
                    return
            else:
                x_TD = x_TD + self.backbone.dense(layer, h_TD)
            self.watch.mark(Stage.OTHER)
            self.progress()
        self.x_TD = x_TD

    def _dispatch(self, layer: int, h_TD: Tensor) -> tuple[Dispatched, Tensor | None]:
        """Send the rows to their experts; the shared expert is computed while the shards work."""
        routing = self._route(layer, h_TD)
        dispatched = self.pool.dispatch(layer, h_TD, routing, self.lane)
        self.routings.append((layer, routing))
        self.watch.mark(Stage.PACK)
        if self.backbone.spec.shared is None:
            return dispatched, None
        shared_TD = self.backbone.shared(layer, h_TD)
        self.watch.mark(Stage.SHARED_EXPERT)
        return dispatched, shared_TD

    def _route(self, layer: int, h_TD: Tensor) -> Routing:
        gate, correction_E = self.backbone.spec.gate, self.backbone.gate_correction(layer)
        logits_TE = self.backbone.gate_logits(layer, h_TD)
        routing = route(gate, logits_TE, self.ops, self.lost_T, correction_E)
        # Only for the rows that ask: ranking all experts of a whole prompt would cost every step.
        if rows := self.scored_rows:
            chosen_RK = torch.from_numpy(routing.expert_ids_TK[rows]).to(logits_TE.device)
            self.scores.append(best_scores(gate, logits_TE[rows], chosen_RK, correction_E))
        self.watch.mark(Stage.GATE)
        return routing

    def _combine(self, dispatched: Dispatched, shared_TD: Tensor | None, h_TD: Tensor) -> Tensor:
        """Wait for the experts' sum and add the shared expert's output; note the tokens that were lost."""
        combined = self.pool.combine(dispatched, h_TD.device)
        self.watch.mark_trip(combined.trip)
        self.trips.append(combined.trip)
        if self.traced:
            layer, routing = self.routings[-1]
            block_of_E = self.pool.placement.layer(layer).block_of_E
            self.shards.append(combined.shard_of_B[block_of_E[routing.expert_ids_TK]])
        for failure in combined.failures:
            # The first tells the cause; what follows only finds the connection gone.
            self.failures.setdefault(failure.shard, failure)
        if len(combined.lost_tokens):
            self.lost_T[combined.lost_tokens] = True
            self.all_lost = bool(self.lost_T.all())
        y_TD = combined.y_TD.to(h_TD.dtype)
        return y_TD if shared_TD is None else y_TD + shared_TD
