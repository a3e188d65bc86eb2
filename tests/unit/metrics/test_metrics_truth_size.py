"""What measuring costs, without a clock: series on a page, and calls made for a step."""

import gc
import sys
import time
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import pytest

from experts.placement import even_placement
from experts.routing import Routing
from experts.timing.phase import PHASES
from experts.timing.phases import CallPhases, LayerTrip
from router_service.config import MetricsConfig
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.collector import Statistics
from router_service.metrics.histogram import DECADES, SECONDS, phase_bounds
from router_service.metrics.router_series import ConnectionGauges, Gauges, router_series
from router_service.metrics.shard_series import shard_series
from tests.support.scrape import GAUGES, LABELS, exposed, text_of, value

LAYERS, EXPERTS, SHARDS, CHOSEN = 58, 256, 64, 8
MOST_SERIES = 5000
SETUP = (LABELS, MetricsConfig())
STATUS = {
    "assignments": 7,
    "computations": 5,
    "merged_calls": 4,
    "weights_bytes": 90,
    "load_seconds": 0.5,
    "rejected": {},
    "thread_failures": {},
    "experts": 3,
}


def step(shards: int, layers: int = LAYERS, tokens: int = 64) -> StepRecord:
    """Every shard is asked in every layer."""
    random = np.random.default_rng(0)
    ids = random.random((tokens, EXPERTS)).argsort(axis=1)[:, :CHOSEN]
    routing = Routing(ids, np.ones(ids.shape, np.float32))
    calls = [CallPhases(shard, (10**5,) * len(PHASES), 8, 9, 700, 800, 10**15 + shard) for shard in range(shards)]
    times_ns = {"pack_ns": 10**5, "exposed_ns": 10**6, "reduce_ns": 10**4, "waiting_ns": 10**15 - 10**6}
    trips = [LayerTrip.of(layer, calls, **times_ns) for layer in range(layers)]
    return StepRecord(10**8, 0, tokens, StepTrace(trips=trips, routings=[(n, routing) for n in range(layers)]))


def gauges(shards: int) -> Gauges:
    connection = ConnectionGauges(replica="abcdefgh", up=True, restarts=0, reconnects=0, clock_error_s=1e-4)
    return replace(GAUGES, rejected={}, connections=(connection,) * shards, thread_failures={}, observer_failures={})


def series(shards: int, config: MetricsConfig) -> list[str]:
    """The samples on the page of a Front with one router."""
    statistics = Statistics(lambda: even_placement(EXPERTS, shards), LAYERS)
    for _ in range(40):  # enough for dead experts to be told
        statistics.observe(step(shards, tokens=32))
    statistics.flush()
    own = router_series(statistics, statistics.cumulative, gauges(shards), LABELS, config)
    told = shard_series(dict.fromkeys(range(shards), STATUS), {"model": "m"})
    return [line for line in text_of(own + told).splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("shards", [1, 8, 27, 28, SHARDS])
def test_a_large_models_page_is_bounded(shards: int) -> None:
    found = series(shards, MetricsConfig())
    assert len(found) == len(set(found)) < MOST_SERIES
    names = tuple(f"expertmesh_alltoall_phase_seconds_{part}" for part in ("sum", "count"))
    assert sum(line.startswith(names) for line in found) == 2 * shards * len(PHASES)


def test_a_sample_takes_no_longer_on_a_large_page() -> None:
    """A scrape's time grows with its samples and no faster; the processor's time, as the machine is shared."""

    def seconds_a_sample(shards: int) -> float:
        statistics = Statistics(lambda: even_placement(EXPERTS, shards), LAYERS)
        metric_families = router_series(statistics, statistics.cumulative, gauges(shards), *SETUP)
        taken = []
        for _ in range(7):
            begun = time.thread_time()
            lines = text_of(metric_families).count("\n")
            taken.append((time.thread_time() - begun) / lines)
        return min(taken)

    assert seconds_a_sample(SHARDS) < 5 * seconds_a_sample(4)


def test_what_layers_and_experts_add_is_bounded_by_what_was_asked_for() -> None:
    plain, top = len(series(SHARDS, MetricsConfig())), 16
    layered = len(series(SHARDS, MetricsConfig(per_layer=True)))
    full = len(series(SHARDS, MetricsConfig(per_layer=True, per_expert=True, top_experts=top)))
    assert layered == plain + 3 * (LAYERS - 1)
    assert full == layered + LAYERS * top


def test_phases_have_the_finest_buckets_that_the_page_affords() -> None:
    assert phase_bounds(27 * len(PHASES)) == SECONDS
    assert phase_bounds(28 * len(PHASES)) == phase_bounds(SHARDS * len(PHASES)) == DECADES
    assert DECADES == (1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0)
    assert phase_bounds(65 * len(PHASES)) == ()


@pytest.mark.parametrize("shards", [2, 40, 70])
def test_coarser_buckets_count_the_same_calls(shards: int) -> None:
    statistics = Statistics(lambda: even_placement(EXPERTS, shards), LAYERS)
    statistics.observe(step(shards))
    metrics = exposed(statistics)
    for shard in (0, shards - 1):
        labels = {"shard": str(shard), "phase": "combine"}
        assert value(metrics, "alltoall_phase_seconds_count", **labels) == LAYERS
        assert value(metrics, "alltoall_phase_seconds_bucket", le="+Inf", **labels) == LAYERS
        assert value(metrics, "alltoall_phase_seconds_sum", **labels) == pytest.approx(LAYERS * 1e-4)


class CallCounter:
    """Counts the calls of Python and C functions on this thread; the garbage collector, which calls too, waits."""

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> "CallCounter":
        gc.disable()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        gc.enable()

    def _note(self, _: FrameType, event: str, __: Any) -> None:
        self.calls += event in ("call", "c_call")


def calls_of(shards: int, layers: int, steps: int) -> int:
    """Calls for steps of one token, which are added up together as long as they are small."""
    placement, records = even_placement(EXPERTS, shards), [step(shards, layers, 1)] * steps
    statistics = Statistics(lambda: placement, LAYERS)
    with CallCounter() as counter:
        for record in records:
            statistics.observe(record)
        statistics.flush()
    return counter.calls


def test_a_step_takes_the_same_few_calls_however_many_shards_answer() -> None:
    assert calls_of(64, LAYERS, 1) == calls_of(2, LAYERS, 1)
    by_layers = calls_of(64, LAYERS, 1) - calls_of(64, 1, 1)
    assert by_layers <= 4 * (LAYERS - 1)
    assert calls_of(64, 1, 1) < 350


def test_small_steps_cost_a_fraction_of_one() -> None:
    """Sixteen steps of the bundled model's four layers take less than four times the calls of one."""
    assert calls_of(2, 4, 16) < 4 * calls_of(2, 4, 1)
