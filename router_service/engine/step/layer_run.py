"""One batch's way through the layers, in turns, so that two batches of a step can take theirs alternately.

T tokens of the batch, D hidden, E experts, R rows whose scores are wanted, or that are asked for anew, K chosen.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.flights import Dispatched
from experts.pool import Combined, ExpertPool
from experts.routing import LOST, Routing
from experts.timing.phases import LayerTrip
from experts.transport.base import ShardUnavailable
from kernels.ops import Ops
from router_service.engine.step.fallbacks import Fallbacks, GateChoice, Rows, replaced
from router_service.engine.step.gating import best_scores, route
from router_service.engine.step.living import without
from router_service.engine.step.stage import Stage
from router_service.engine.step.stopwatch import Stopwatch
from router_service.models.backbone import Backbone
from router_service.models.step_batch import StepBatch

GateScores = tuple[Tensor, Tensor]


@dataclass(slots=True)
class LayerRun:
    """Computes `batch`; each turn ends as soon as a layer's calls to the experts are in flight.

    A lost token stays in the batch as zeros and is sent to no expert, so that the rest still completes. `routings` and
    `scores` have an entry for each MoE layer computed, `trips` one more for each time that rows were asked for anew.
    `x_TD` are the rows behind the last layer; None until then, and for good if every token is lost (`all_lost`).

    Args:
        fallbacks: what becomes of rows that lose experts.
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
    fallbacks: Fallbacks
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
    _flying: Dispatched | None = None
    _turns: Iterator[None] = field(init=False)

    def __post_init__(self) -> None:
        self.lost_T = np.zeros(len(self.batch.token_ids_T), dtype=bool)
        self._turns = self._layers()

    def advance(self) -> bool:
        """Take a turn: wait for the calls in flight, then compute up to the next ones. False if it was the last."""
        return next(self._turns, self) is None

    def settle(self) -> None:
        """Wait for calls in flight that nobody will combine: their replies would come in place of later ones."""
        if (flying := self._flying) is not None:
            self._flying = None
            self.pool.combine(flying, torch.device("cpu"))

    def _layers(self) -> Iterator[None]:
        x_TD, by = self.backbone.embed(self.batch)
        self.watch.mark(Stage.OTHER)
        for layer in range(self.backbone.spec.layers):
            x_TD = self.backbone.attention(layer, x_TD, by, self.batch)
            h_TD = self.backbone.feed_forward_input(layer, x_TD)
            self.watch.mark(Stage.ATTENTION)
            self.progress()
            if layer in self.backbone.sparse_layers:
                x_TD = x_TD + (yield from self._experts(layer, h_TD))
                # All of these sequences will repeat the step, so the remaining layers would be computed for nothing.
                if self.all_lost:
                    return
            else:
                x_TD = x_TD + self.backbone.dense(layer, h_TD)
            self.watch.mark(Stage.OTHER)
            self.progress()
        self.x_TD = x_TD

    def _experts(self, layer: int, h_TD: Tensor) -> Generator[None, None, Tensor]:
        """The experts' sum and the shared expert's output; a turn ends wherever calls are in flight."""
        choice = self._choose(layer, h_TD)
        dead_E = self.pool.dead_experts(layer) if self.fallbacks.watchful else None
        routing = self.fallbacks.before(layer, choice, dead_E)
        self._rank(choice, routing)
        self.watch.mark(Stage.GATE)
        dispatched = self._dispatch(layer, h_TD, routing)
        self.routings.append((layer, routing))
        self.watch.mark(Stage.PACK)
        shared_TD = self._shared(layer, h_TD)
        yield
        combined = self._combine(dispatched, h_TD.device)
        if self.traced:
            self.shards.append(combined.shards_TK())
        y_TD = combined.y_TD
        if combined.lost_TK is not None:
            y_TD = yield from self._make_do(layer, h_TD, choice, y_TD, combined.lost_TK)
        y_TD = y_TD.to(h_TD.dtype)
        return y_TD if shared_TD is None else y_TD + shared_TD

    def _choose(self, layer: int, h_TD: Tensor) -> GateChoice:
        gate, correction_E = self.backbone.spec.gate, self.backbone.gate_correction(layer)
        logits_TE = self.backbone.gate_logits(layer, h_TD)
        routing = route(gate, logits_TE, self.ops, self.lost_T, correction_E)
        return GateChoice(gate, logits_TE, correction_E, routing)

    def _rank(self, choice: GateChoice, routing: Routing) -> None:
        """Keep the scores of the rows that ask; ranking all experts of a whole prompt would cost every step."""
        if rows := self.scored_rows:
            ids_RK = routing.expert_ids_TK[rows]
            # In the place of an expert that is dropped the one that the gate chose.
            ids_RK = np.where(ids_RK == LOST, choice.routing.expert_ids_TK[rows], ids_RK)
            chosen_RK = torch.from_numpy(ids_RK).to(choice.logits_TE.device)
            self.scores.append(best_scores(choice.gate, choice.logits_TE[rows], chosen_RK, choice.correction_E))

    def _shared(self, layer: int, h_TD: Tensor) -> Tensor | None:
        """The shared expert's output, computed while the shards work."""
        if self.backbone.spec.shared is None:
            return None
        shared_TD = self.backbone.shared(layer, h_TD)
        self.watch.mark(Stage.SHARED_EXPERT)
        return shared_TD

    def _dispatch(self, layer: int, x_TD: Tensor, routing: Routing) -> Dispatched:
        """Send rows to their experts."""
        dispatched = self._flying = self.pool.dispatch(layer, x_TD, routing, self.lane)
        return dispatched

    def _combine(self, dispatched: Dispatched, device: torch.device) -> Combined:
        """Wait for the experts' sum."""
        self._flying = None
        combined = self.pool.combine(dispatched, device)
        self.watch.mark_trip(combined.trip)
        self.trips.append(combined.trip)
        for failure in combined.failures:
            # The first tells the cause; what follows only finds the connection gone.
            self.failures.setdefault(failure.shard, failure)
        return combined

    def _make_do(
        self, layer: int, h_TD: Tensor, choice: GateChoice, y_TD: Tensor, lost_TK: NDArray[np.bool_]
    ) -> Generator[None, None, Tensor]:
        """Mend the rows that have lost experts, as each one's policy has it; the others keep their bits."""
        routing = self.routings[-1][1]
        lost_R, scaled_R, rows_R = self.fallbacks.lose(layer, routing, lost_TK)
        self.lost_T[lost_R] = True
        self.all_lost = bool(self.lost_T.all())
        if len(scaled_R):
            ids_RK, weights_RK = routing.expert_ids_TK[scaled_R], routing.weights_TK[scaled_R]
            left, scale_R = without(Routing(ids_RK, weights_RK), lost_TK[scaled_R])
            y_TD[scaled_R] *= torch.from_numpy(scale_R)[:, None].to(y_TD.device)
            self._replace(choice, scaled_R, left)
            if self.traced:
                self.shards[-1][scaled_R] = np.where(left.expert_ids_TK == LOST, LOST, self.shards[-1][scaled_R])
        if len(rows_R):
            yield from self._ask_anew(layer, h_TD, choice, y_TD, rows_R, lost_TK[rows_R])
        return y_TD

    def _ask_anew(
        self, layer: int, h_TD: Tensor, choice: GateChoice, y_TD: Tensor, rows_R: Rows, lost_RK: NDArray[np.bool_]
    ) -> Generator[None, None, None]:
        """Send rows to living experts instead, until all have answered: each time those that have not are left out."""
        policy_T = self.fallbacks.policy_T
        assert policy_T is not None
        dead_E = np.zeros(choice.gate.experts, dtype=bool)
        while len(rows_R):
            dead_E[self.routings[-1][1].expert_ids_TK[rows_R][lost_RK]] = True
            known_E = self.pool.dead_experts(layer)
            routing_R = choice.instead(rows_R, policy_T[rows_R], dead_E if known_E is None else dead_E | known_E)
            self._replace(choice, rows_R, routing_R)
            dispatched = self._dispatch(layer, h_TD[rows_R], routing_R)
            self.watch.mark(Stage.PACK)
            yield
            combined = self._combine(dispatched, h_TD.device)
            y_TD[rows_R] = combined.y_TD
            if self.traced:
                self.shards[-1][rows_R] = combined.shards_TK()
            if combined.lost_TK is None:
                return
            still_R = combined.lost_tokens
            rows_R, lost_RK = rows_R[still_R], combined.lost_TK[still_R]

    def _replace(self, choice: GateChoice, rows_R: Rows, by: Routing) -> None:
        """Note that rows go elsewhere than was noted for this layer."""
        layer, before = self.routings.pop()
        self.routings.append((layer, replaced(before, rows_R, by)))
        if self.scored_rows:
            self.scores.pop()
            self._rank(choice, self.routings[-1][1])
