"""What a router has counted since it started, in plain arrays: the engine's thread adds, the reporter's reads.

S shards, L all layers, E experts. Everything only grows; windows are differences of two copies.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from experts.balance import Counts, Floats, max_over_mean
from experts.phases import PHASES
from experts.placement import Placement
from router_service.engine import StepRecord
from router_service.forward import STAGES
from router_service.histogram import RATIOS, SECONDS, TOKENS, HistogramArray

KINDS = ("prefill", "decode", "mixed")
WINDOW_SECONDS = 60.0


@dataclass(slots=True)
class Totals:
    """The sums that windows are made of; times in seconds."""

    expert_tokens_LE: Counts
    rows_S: Counts
    assignments_S: Counts
    calls_S: Counts
    phase_seconds_SP: Floats
    decode_tokens: int = 0
    step_seconds: float = 0.0
    communication_seconds: float = 0.0

    def copy(self) -> "Totals":
        """A snapshot."""
        return Totals(
            self.expert_tokens_LE.copy(),
            self.rows_S.copy(),
            self.assignments_S.copy(),
            self.calls_S.copy(),
            self.phase_seconds_SP.copy(),
            self.decode_tokens,
            self.step_seconds,
            self.communication_seconds,
        )

    def minus(self, old: "Totals") -> "Totals":
        """What has come since `old`."""
        return Totals(
            self.expert_tokens_LE - old.expert_tokens_LE,
            self.rows_S - old.rows_S,
            self.assignments_S - old.assignments_S,
            self.calls_S - old.calls_S,
            self.phase_seconds_SP - old.phase_seconds_SP,
            self.decode_tokens - old.decode_tokens,
            self.step_seconds - old.step_seconds,
            self.communication_seconds - old.communication_seconds,
        )

    @property
    def overhead_ratio(self) -> float:
        """Communication's share of step time: the exposed wait that is not expert compute, plus pack and reduce."""
        return self.communication_seconds / self.step_seconds if self.step_seconds else 0.0


class Statistics:
    """Counters and histograms of one router; `observe` is called once a step, on the engine's thread."""

    def __init__(self, placement: Placement, layers: int) -> None:
        shards = len(placement.shards)
        self.placement = placement
        rows_S, assignments_S, calls_S = np.zeros((3, shards), dtype=np.int64)
        experts_LE = np.zeros((layers, placement.experts), dtype=np.int64)
        self.totals = Totals(experts_LE, rows_S, assignments_S, calls_S, np.zeros((shards, len(PHASES))))
        self.bytes_SD = np.zeros((shards, 2), dtype=np.int64)
        self.exposed_seconds = 0.0
        self.straggler_seconds = 0.0
        self.stage_seconds = dict.fromkeys(STAGES, 0.0)
        self.phases = HistogramArray(SECONDS, shards * len(PHASES))
        self.steps = HistogramArray(SECONDS, len(KINDS))
        self.iteration_tokens = HistogramArray(TOKENS, 1)
        self.shard_imbalance = HistogramArray(RATIOS, 1)
        self._starts_S = placement.ends_S - np.diff(placement.ends_S, prepend=0)
        self._order_E = np.argsort(placement.rank_of_E)

    def observe(self, step: StepRecord) -> None:
        """Add one step."""
        seconds = step.duration_ns / 1e9
        self.steps.observe_one(KINDS.index(step.kind), seconds)
        self.iteration_tokens.observe_one(0, step.prompt_tokens + step.decode_tokens)
        self.totals.step_seconds += seconds
        self.totals.decode_tokens += step.decode_tokens
        self._add_stages(step)
        self._add_trips(step)
        self._add_routings(step)

    def _add_stages(self, step: StepRecord) -> None:
        rest = step.duration_ns - sum(step.trace.stages_ns.values())
        for stage, nanoseconds in step.trace.stages_ns.items():
            self.stage_seconds[stage] += nanoseconds / 1e9
        self.stage_seconds["other"] += rest / 1e9

    def _add_trips(self, step: StepRecord) -> None:
        trips = step.trace.trips
        for trip in trips:
            self.exposed_seconds += trip.exposed_ns / 1e9
            self.straggler_seconds += trip.straggler_ns / 1e9
        waits = sum(trip.exposed_ns - trip.exposed_compute_ns for trip in trips)
        stages = step.trace.stages_ns
        self.totals.communication_seconds += (waits + stages["pack"] + stages["reduce"]) / 1e9
        calls = [call for trip in trips for call in trip.calls]
        if calls:
            shards_N = np.array([call.shard for call in calls])
            self._add_phases(shards_N, np.array([call.phases_ns for call in calls]) / 1e9)
            sizes_N = np.array([(c.rows, c.assignments, c.dispatch_bytes, c.combine_bytes) for c in calls])
            np.add.at(self.totals.calls_S, shards_N, 1)
            np.add.at(self.totals.rows_S, shards_N, sizes_N[:, 0])
            np.add.at(self.totals.assignments_S, shards_N, sizes_N[:, 1])
            np.add.at(self.bytes_SD, shards_N, sizes_N[:, 2:])

    def _add_phases(self, shards_N: Counts, seconds_NP: Floats) -> None:
        np.add.at(self.totals.phase_seconds_SP, shards_N, seconds_NP)
        rows_NP = shards_N[:, None] * len(PHASES) + np.arange(len(PHASES))
        self.phases.observe(rows_NP.reshape(-1), seconds_NP.reshape(-1))

    def _add_routings(self, step: StepRecord) -> None:
        for layer, routing in step.trace.routings:
            ids = routing.expert_ids_TK.reshape(-1)
            counts_E = np.bincount(ids[ids >= 0], minlength=self.placement.experts)
            self.totals.expert_tokens_LE[layer] += counts_E
            loads_S = self.by_shard(counts_E[None])[0]
            if (mean := loads_S.mean()) > 0:
                self.shard_imbalance.observe_one(0, float(loads_S.max() / mean))

    def imbalance(self, recent: Totals) -> dict[str, float]:
        """Mean over layers of max / mean, over shards and over experts; 1 where nothing was counted."""
        counts_LE = recent.expert_tokens_LE[recent.expert_tokens_LE.any(axis=1)]
        if not len(counts_LE):
            return {"shard_imbalance": 1.0, "expert_imbalance": 1.0}
        by_shard_LS = self.by_shard(counts_LE)
        means = (max_over_mean(by_shard_LS).mean(), max_over_mean(counts_LE).mean())
        return {"shard_imbalance": float(means[0]), "expert_imbalance": float(means[1])}

    def by_shard(self, counts_LE: Counts) -> Counts:
        """Sum expert counts over each shard's experts, [L, S]."""
        return np.add.reduceat(counts_LE[:, self._order_E], self._starts_S, axis=1)


class Window:
    """The last minute, from snapshots taken about once a second."""

    def __init__(self, first: Totals, now: float) -> None:
        self._snapshots = deque([(now, first.copy())])

    def advance(self, totals: Totals, now: float) -> tuple[Totals, float]:
        """Take a snapshot; return what the window holds and its length in seconds."""
        while len(self._snapshots) > 1 and now - self._snapshots[1][0] > WINDOW_SECONDS:
            self._snapshots.popleft()
        current = totals.copy()
        self._snapshots.append((now, current))
        since, old = self._snapshots[0]
        return current.minus(old), now - since
