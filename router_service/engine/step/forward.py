"""One forward pass: the backbone on the router, the experts through the pool, layer by layer.

A step's sequences are one batch or two. With two, one's attention runs while the other's experts do: each takes its
turn up to the next calls to the experts (DeepSeek-V3, arXiv 2412.19437, section 3.4, overlaps two micro-batches so).

T tokens, D hidden, L rows whose logits are wanted, V vocabulary.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.pool import ExpertPool
from experts.routing import LOST, Routing
from experts.timing.phases import LayerTrip
from experts.transport.base import ShardUnavailable
from kernels.ops import Ops
from router_service.engine.step.fallbacks import Fallbacks, Missing
from router_service.engine.step.layer_run import GateScores, LayerRun
from router_service.engine.step.stage import STAGES, Stage
from router_service.engine.step.stopwatch import Stopwatch
from router_service.models.backbone import Backbone
from router_service.models.step_batch import Segment, StepBatch


@dataclass(slots=True)
class StepTrace:
    """What a step recorded: nanoseconds by stage, the trips, each MoE layer's routing, lost tokens, failed shards.

    `shards` has, if the step is `traced`, each MoE layer's shards that have computed the routing's pairs, [T, K].
    Each batch makes a trip in each MoE layer; everything else is of the whole step, rows in the order of its segments.
    `scored_rows` are the rows whose requests ask for the gate's scores; `scores` holds them for each MoE layer.
    `policy_T`, `degraded_at_T` and `missing` are as in `Fallbacks`.
    """

    stages_ns: dict[Stage, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    trips: list[LayerTrip] = field(default_factory=list)
    routings: list[tuple[int, Routing]] = field(default_factory=list)
    shards: list[NDArray[np.int64]] = field(default_factory=list)
    failures: dict[int, ShardUnavailable] = field(default_factory=dict)
    traced: bool = False
    scored_rows: list[int] = field(default_factory=list)
    scores: list[GateScores] = field(default_factory=list)
    lost_T: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    policy_T: NDArray[np.int8] | None = None
    degraded_at_T: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    missing: dict[int, Missing] = field(default_factory=dict)

    def complete(self, segments: Sequence[Segment]) -> list[int]:
        """Return the indices of the segments without a lost token."""
        if not self.lost_T.any():
            return list(range(len(segments)))
        numbered = enumerate(segments)
        return [number for number, part in numbered if not self.lost_T[part.start : part.start + part.length].any()]


def forward(
    backbone: Backbone,
    pool: ExpertPool,
    ops: Ops,
    batches: Sequence[StepBatch],
    trace: StepTrace,
    progress: Callable[[], None] = lambda: None,
    hidden: Callable[[Tensor], None] = lambda _: None,
) -> Tensor | None:
    """Return logits_LV of the batches' `logit_rows_L`, one batch after the other; None if unavailable shards have
    lost every token. A batch that has lost all of its tokens ends early, and its rows are zeros.

    Args:
        batches: the step's rows in order; they take turns.
        progress: called after each part of a layer, so that a long prompt is not taken for a hang.
        hidden: called with x_TD behind the last layer, of all rows; its time is charged to sampling.
    """
    watch = Stopwatch(trace.stages_ns, batches[0].token_ids_T.device)
    runs, row = [], 0
    for lane, batch in enumerate(batches):
        end = row + len(batch.token_ids_T)
        runs.append(
            LayerRun(
                backbone=backbone,
                pool=pool,
                ops=ops,
                batch=batch,
                fallbacks=Fallbacks(
                    tokens=end - row,
                    policy_T=None if trace.policy_T is None else trace.policy_T[row:end],
                    rescales=not backbone.spec.form.weight_inputs,
                ),
                lane=lane,
                scored_rows=[scored - row for scored in trace.scored_rows if row <= scored < end],
                failures=trace.failures,
                traced=trace.traced,
                watch=watch,
                progress=progress,
            )
        )
        row = end
    try:
        active = runs
        while active:
            active = [run for run in active if run.advance()]
    except Exception:
        for run in runs:
            with suppress(Exception):  # what raised first says more
                run.settle()
        raise
    _record(runs, trace)
    if (x_TD := _hidden(runs)) is None:
        return None
    watch.mark(Stage.OTHER)
    hidden(x_TD)
    watch.mark(Stage.SAMPLE)
    # For all batches together: the head is the largest matrix of all.
    logits_LV = backbone.logits(x_TD, _logit_rows(batches))
    watch.mark(Stage.OTHER)
    return logits_LV


def _record(runs: list[LayerRun], trace: StepTrace) -> None:
    trace.trips = [trip for run in runs for trip in run.trips]
    trace.lost_T = np.concatenate([run.lost_T for run in runs])
    trace.degraded_at_T = np.concatenate([run.fallbacks.degraded_at_T for run in runs])
    starts = accumulate((len(run.lost_T) for run in runs), initial=0)
    trace.missing = {
        start + row: missing
        for start, run in zip(starts, runs, strict=False)
        for row, missing in run.fallbacks.missing.items()
    }
    trace.routings = runs[0].routings if len(runs) == 1 else _routings(runs)
    trace.shards = _shards(runs) if trace.traced else []
    trace.scores = _scores([run.scores for run in runs if run.scored_rows])


def _routings(runs: list[LayerRun]) -> list[tuple[int, Routing]]:
    """Each layer's routing of all rows. A batch that has lost every token goes nowhere in the layers that remain."""
    layers = max((run.routings for run in runs), key=len)
    return [(layer, _joined([_routing(run, number) for run in runs])) for number, (layer, _) in enumerate(layers)]


def _routing(run: LayerRun, number: int) -> Routing:
    if number < len(run.routings):
        return run.routings[number][1]
    last = run.routings[-1][1]
    return Routing(np.full_like(last.expert_ids_TK, LOST), np.zeros_like(last.weights_TK))


def _shards(runs: list[LayerRun]) -> list[NDArray[np.int64]]:
    """Who has computed each layer's pairs, of all rows. A batch that has lost every token is computed nowhere."""
    layers = max(len(run.shards) for run in runs)
    padded = [run.shards + [np.full_like(run.shards[-1], LOST)] * (layers - len(run.shards)) for run in runs]
    return [np.concatenate(parts) for parts in zip(*padded, strict=True)]


def _joined(parts: list[Routing]) -> Routing:
    ids, weights = [part.expert_ids_TK for part in parts], [part.weights_TK for part in parts]
    return Routing(np.concatenate(ids), np.concatenate(weights))


def _scores(scored: list[list[GateScores]]) -> list[GateScores]:
    """Each layer's scores of all scored rows. A batch that has lost every token repeats its last: nobody reads them."""
    made = []
    for number in range(max(map(len, scored), default=0)):
        parts = [scores[min(number, len(scores) - 1)] for scores in scored]
        made.append((torch.cat([values for values, _ in parts]), torch.cat([ids for _, ids in parts])))
    return made


def _hidden(runs: list[LayerRun]) -> Tensor | None:
    """The rows of all batches behind the last layer; None if none has come so far."""
    known = [run.x_TD for run in runs if run.x_TD is not None]
    if not known or len(runs) == 1:
        return known[0] if known else None
    like_TD = known[0]
    return torch.cat(
        [like_TD.new_zeros(len(run.lost_T), like_TD.shape[1]) if run.x_TD is None else run.x_TD for run in runs]
    )


def _logit_rows(batches: Sequence[StepBatch]) -> Tensor:
    starts = accumulate((len(batch.token_ids_T) for batch in batches), initial=0)
    return torch.cat([batch.logit_rows_L + start for batch, start in zip(batches, starts, strict=False)])
