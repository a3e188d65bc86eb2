"""What a router has counted since it started, in plain arrays.

S shards, L all layers, E experts. Everything only grows.
"""

import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from experts.balance import Counts, Floats, max_over_mean
from experts.costs import ShardCosts
from experts.placement import Placement
from experts.routing import LOST, Routing
from experts.timing.cost_fit import CostFit
from experts.timing.phase import PHASES
from experts.timing.phases import LayerTrip
from experts.timing.trips import TripCalls
from router_service.engine.step.stage import STAGES, Stage
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.histogram import RATIOS, SECONDS, TOKENS, HistogramArray
from router_service.metrics.shard_load import ShardLoad
from router_service.metrics.windows import WindowSums

KINDS = ("prefill", "decode", "mixed")
# Small steps are added up together, up to this many steps and rows (tokens times layers): more would leave the caches.
PENDING_STEPS = 32
PENDING_ROWS = 1024


class Statistics:
    """Counters and histograms of one router.

    `observe` is called once per step on the engine's thread and only keeps the record: adding up several small steps
    together costs little more than one. `flush` adds up those that are pending; the reporter calls it before it reads.

    Args:
        learnt: called with what layer calls cost each shard whenever that has been found anew, on the flushing thread.
    """

    def __init__(
        self,
        placement: Callable[[], Placement],
        layers: int,
        learnt: Callable[[ShardCosts], None] = lambda _: None,
    ) -> None:
        now = placement()
        self.shards = shards = now.shards
        self._placement = placement
        self._fit = CostFit(shards)
        self._learnt = learnt
        # Plain arrays: a step makes hundreds of observations, and each would cost prometheus_client 0.5 us.
        rows_S, assignments_S, calls_S = np.zeros((3, shards), dtype=np.int64)
        experts_LE = np.zeros((layers, now.experts), dtype=np.int64)
        self.phases = HistogramArray(SECONDS, shards * len(PHASES))
        seconds_SP = self.phases.sums.reshape(shards, len(PHASES))
        self.cumulative = WindowSums(
            expert_tokens_LE=experts_LE,
            load=ShardLoad.under(now, layers, shards),
            rows_S=rows_S,
            assignments_S=assignments_S,
            calls_S=calls_S,
            phase_seconds_SP=seconds_SP,
        )
        self.bytes_SD = np.zeros((shards, 2), dtype=np.int64)
        self.compute_ns_S = np.zeros(shards, dtype=np.int64)
        self.exposed_seconds = 0.0
        self.straggler_seconds = 0.0
        self.stage_seconds = dict.fromkeys(STAGES, 0.0)
        self.steps = HistogramArray(SECONDS, len(KINDS))
        self.iteration_tokens = HistogramArray(TOKENS, 1)
        self.shard_imbalance = HistogramArray(RATIOS, 1)
        self._pending: deque[StepRecord] = deque()
        self._pending_rows = 0
        # The engine, the reporter and the live page's monitor flush, each on its own thread.
        self._flush_lock = threading.Lock()

    def observe(self, step: StepRecord) -> None:
        """Keep one step's record.

        Called before a newer placement is taken up: the router does that between two steps.
        """
        if (placement := self._placement()).epoch != self.cumulative.load.epoch:
            self._begin(placement)
        self._pending.append(step)
        self._pending_rows += (step.prompt_tokens + step.decode_tokens) * len(step.trace.routings)
        if len(self._pending) >= PENDING_STEPS or self._pending_rows >= PENDING_ROWS:
            self.flush()

    def _begin(self, placement: Placement) -> None:
        """Count the shards' load anew, once the steps of the last placement are counted."""
        self.flush()
        with self._flush_lock:
            self.cumulative.load = ShardLoad.under(placement, *self.cumulative.load.counts_LS.shape)

    def flush(self) -> None:
        """Add up the pending steps. Any thread may call it."""
        with self._flush_lock:
            self._pending_rows = 0
            # As many as there are now: the engine's thread appends without taking the lock.
            steps = [self._pending.popleft() for _ in range(len(self._pending))]
            if steps:
                self._add_steps(steps)
                self._add_stages(steps)
                self._add_trips([trip for step in steps for trip in step.trace.trips])
                self._add_routings([one for step in steps for one in step.trace.routings])

    def _add_steps(self, steps: list[StepRecord]) -> None:
        seconds = [step.duration_ns / 1e9 for step in steps]
        tokens = [float(step.prompt_tokens + step.decode_tokens) for step in steps]
        self.steps.observe(np.array([KINDS.index(step.kind) for step in steps]), np.array(seconds))
        self.iteration_tokens.observe(np.zeros(len(steps), dtype=np.int64), np.array(tokens))
        self.cumulative.step_seconds += sum(seconds)
        self.cumulative.decode_tokens += sum(step.decode_tokens for step in steps)

    def _add_stages(self, steps: list[StepRecord]) -> None:
        """Time that no stage was charged with counts as `other`; pack and reduce count as communication."""
        spent = {stage: sum([step.trace.stages_ns[stage] for step in steps]) for stage in STAGES}
        spent[Stage.OTHER] += sum([step.duration_ns for step in steps]) - sum(spent.values())
        for stage, nanoseconds in spent.items():
            self.stage_seconds[stage] += nanoseconds / 1e9
        self.cumulative.communication_seconds += (spent[Stage.PACK] + spent[Stage.REDUCE]) / 1e9

    def _add_trips(self, trips: list[LayerTrip]) -> None:
        calls = TripCalls(trips)
        exposed_ns = sum([trip.exposed_ns for trip in trips])
        self.exposed_seconds += exposed_ns / 1e9
        self.straggler_seconds += calls.straggler_ns() / 1e9
        self.cumulative.communication_seconds += (exposed_ns - calls.exposed_compute_ns()) / 1e9
        if len(calls):
            self._add_calls(calls)
            self._add_loads(calls)
            if self._fit.add(calls):
                self._learnt(self._fit.costs)

    def _add_calls(self, calls: TripCalls) -> None:
        cumulative, shards_N = self.cumulative, calls.shards_N
        shards = len(cumulative.calls_S)
        cumulative.calls_S += np.bincount(shards_N, minlength=shards)
        for counts_S, sizes_N in (
            (cumulative.rows_S, calls.rows_N),
            (cumulative.assignments_S, calls.assignments_N),
            (self.bytes_SD[:, 0], calls.dispatch_bytes_N),
            (self.bytes_SD[:, 1], calls.combine_bytes_N),
            (self.compute_ns_S, calls.own_compute_N),
        ):
            # bincount's weights are floats, which are exact up to 2^53: so many bytes are never pending.
            counts_S += np.bincount(shards_N, sizes_N, shards).astype(np.int64)
        load = cumulative.load
        load.counts_LS[:] += calls.assignments_by_layer(*load.counts_LS.shape)
        rows_NP = shards_N[:, None] * len(PHASES) + np.arange(len(PHASES))
        self.phases.observe(rows_NP.reshape(-1), calls.phases_NP.reshape(-1) / 1e9)

    def _add_loads(self, calls: TripCalls) -> None:
        """How evenly each layer's call was spread: in pairs, and in time by what shards cost."""
        cumulative, shards = self.cumulative, self.shards
        loads_LS, experts_LS = (calls.by_shard(one_N, shards) for one_N in (calls.assignments_N, calls.experts_N))
        asked_L = loads_LS.any(axis=1)
        ratios_L = max_over_mean(loads_LS, cumulative.load.holders_L[calls.layers_L])[asked_L]
        self.shard_imbalance.observe(np.zeros(len(ratios_L), dtype=np.int64), ratios_L)
        times_LS = self._fit.costs.of(experts_LS, loads_LS)
        cumulative.layer_calls += int(np.count_nonzero(asked_L))
        cumulative.slowest_us += float(times_LS.max(axis=1).sum())
        cumulative.mean_us += float((times_LS.sum(axis=1) / np.maximum(1, (loads_LS > 0).sum(axis=1))).sum())

    def _add_routings(self, routings: list[tuple[int, Routing]]) -> None:
        """Count all calls at once: M chosen experts of C calls, each with its layer's and its call's number."""
        if not routings:
            return
        ids_M = np.concatenate([routing.expert_ids_TK.reshape(-1) for _, routing in routings])
        calls_M = np.repeat(np.arange(len(routings)), [routing.expert_ids_TK.size for _, routing in routings])
        # A lost token was computed nowhere, so it is nobody's load.
        if (lost_M := ids_M == LOST).any():
            ids_M, calls_M = ids_M[~lost_M], calls_M[~lost_M]
        layers_C = np.array([layer for layer, _ in routings])
        self.cumulative.expert_tokens_LE += _table(layers_C[calls_M], ids_M, self.cumulative.expert_tokens_LE.shape)

    def imbalance(self, recent: WindowSums) -> dict[str, float]:
        """Mean over layers of max / mean, over shards and over experts; 1 where nothing was counted."""
        counts_LE = recent.expert_tokens_LE[recent.expert_tokens_LE.any(axis=1)]
        shards, experts = recent.load.ratios(), max_over_mean(counts_LE)
        return {"shard_imbalance": _mean(shards), "expert_imbalance": _mean(experts)}

    def modelled(self) -> tuple[float, float, float]:
        """Sums so far of layer calls, and of the modelled microseconds of their slowest and mean shards."""
        sums = self.cumulative
        return sums.layer_calls, sums.slowest_us, sums.mean_us

    @property
    def known_shards(self) -> list[int]:
        """The shards that hold experts or were ever called: there may be room for many more."""
        known_S = self.cumulative.load.holds_LS.any(axis=0) | (self.cumulative.calls_S > 0)
        return np.flatnonzero(known_S).tolist()


def _mean(ratios_L: Floats) -> float:
    return float(ratios_L.mean()) if len(ratios_L) else 1.0


def _table(rows_M: Counts, columns_M: Counts, shape: tuple[int, ...]) -> Counts:
    """How often each (row, column) occurs."""
    return np.bincount(rows_M * shape[1] + columns_M, minlength=shape[0] * shape[1]).reshape(shape)
