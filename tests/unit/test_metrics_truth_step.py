"""Where a step's time goes, and a request's: a sleep of known length is found in its own stage and in no other."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

import experts.pool
import experts.shard
import router_service.engine
import router_service.forward
from experts.trips import TripCalls
from router_service.engine import StepRecord
from router_service.forward import STAGES
from router_service.messages import Timings
from router_service.models.backbone import Backbone
from router_service.scheduler import Scheduler
from router_service.statistics import Statistics
from tests.mesh import Mesh, greedy
from tests.scrape import exposed, value
from tests.tiny import Tiny

Make = Callable[..., Tiny]

CAUSE_S = 0.01
STEPS = 12
# What is made to sleep, and the stage that must show it. Two of the tiny DeepSeek's three layers have experts.
CAUSES: dict[str, tuple[Any, str]] = {
    "schedule": (Scheduler, "schedule"),
    "attention": (Backbone, "attention"),
    "gate": (router_service.forward, "route"),
    "pack": (experts.pool, "group_by_shard"),
    "wait": (experts.shard.ExpertShard, "compute"),
    "reduce": (experts.pool, "_add"),
    "shared_expert": (Backbone, "shared"),
    "sample": (router_service.engine, "sample"),
    "other": (Backbone, "logits"),
}


@dataclass
class Sleeper:
    """Makes a function sleep before it works, as long as it is `on`; `each_ns` is how long it slept in truth."""

    cause_s: float = CAUSE_S
    on: bool = True
    each_ns: list[int] = field(default_factory=list)

    def into(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        work = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            if self.on:
                begun = time.monotonic_ns()
                time.sleep(self.cause_s)
                self.each_ns.append(time.monotonic_ns() - begun)
            return work(*args, **kwargs)

        monkeypatch.setattr(owner, name, slow)

    def take(self) -> int:
        """How long it slept since the last time."""
        slept, self.each_ns = sum(self.each_ns), []
        return slept


def tolerance(cause_ns: float) -> float:
    return max(0.05 * cause_ns, 50e3)


def stages(step: StepRecord, statistics: Statistics) -> dict[str, float]:
    """One step's stages, as the series have them, in nanoseconds."""
    before = dict(statistics.stage_seconds)
    statistics.observe(step)
    statistics.settle()
    return {stage: (seconds - before[stage]) * 1e9 for stage, seconds in statistics.stage_seconds.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_a_sleep_is_in_its_stage_and_in_no_other(tiny: Make, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    sleeper = Sleeper()
    with Mesh(tiny("deepseek_v3").plan, 2) as mesh:
        sleeper.into(monkeypatch, *CAUSES[stage])
        statistics = Statistics(mesh.engine.pool.placement, 3)
        mesh.submit([1, 2, 3], greedy(100))
        mesh.engine.step()
        spent: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        slept = []
        for number in range(2 * STEPS):
            sleeper.on = bool(number % 2)
            time.sleep(CAUSE_S)
            sleeper.take()
            mesh.engine.step()
            spent[sleeper.on].append(stages(mesh.records[-1], statistics))
            slept += [sleeper.take()] if sleeper.on else []
    calm = {name: min(one[name] for one in spent[False]) for name in STAGES}
    for name in STAGES:
        shown = [one[name] - (ns if name == stage else 0) for one, ns in zip(spent[True], slept, strict=True)]
        assert abs(min(shown) - calm[name]) <= tolerance(min(slept)), name
    metrics = exposed(statistics)
    total = sum(value(metrics, "step_stage_seconds_total", stage=name) for name in STAGES)
    assert total == pytest.approx(value(metrics, "step_seconds_sum", kind="decode"), rel=0.02)
    assert value(metrics, "step_seconds_sum", kind="decode") >= sum(slept) / 1e9
    assert value(metrics, "step_seconds_count", kind="decode") == 2 * STEPS


@pytest.mark.parametrize("own_s", [0.01, 0.03], ids=["less than the shards", "more than the shards"])
def test_work_beside_the_shards_hides_their_time(tiny: Make, monkeypatch: pytest.MonkeyPatch, own_s: float) -> None:
    """Shards compute for 20 ms while a shared expert takes 10 or 30: 10 ms are left to wait for, or none at all."""
    shards_s, sleeper = 0.02, Sleeper(own_s)
    sleeper.into(monkeypatch, Backbone, "shared")
    with Mesh(tiny("deepseek_v3").plan, 2, "unix", delays={0: shards_s, 1: shards_s}) as mesh:
        statistics = Statistics(mesh.engine.pool.placement, 3)
        mesh.generate([[1, 2, 3]], greedy(STEPS))
    trips = [trip for step in mesh.records for trip in step.trace.trips]
    left = [max(0.0, shards_s * 1e9 - ns) for ns in sleeper.each_ns]
    errors = [abs(trip.exposed_ns - ns) for trip, ns in zip(trips, left, strict=True)]
    assert min(errors) <= tolerance(shards_s * 1e9)
    # The part of the wait that is not expert compute: what is left of it is compute, as the shards slept in it.
    rest = [trip.exposed_ns - TripCalls([trip]).exposed_compute_ns() for trip in trips]
    assert 0 <= min(rest) <= tolerance(shards_s * 1e9)
    for step in mesh.records:
        statistics.observe(step)
    metrics = exposed(statistics)
    assert value(metrics, "step_stage_seconds_total", stage="shared_expert") >= sum(sleeper.each_ns) / 1e9
    total = sum(value(metrics, "step_stage_seconds_total", stage=name) for name in STAGES)
    steps = sum(value(metrics, "step_seconds_sum", kind=kind) for kind in ("prefill", "decode", "mixed"))
    assert total == pytest.approx(steps, rel=0.02)
    exchange = sum(step.trace.stages_ns[stage] for step in mesh.records for stage in ("pack", "reduce"))
    assert value(metrics, "alltoall_overhead_ratio") == pytest.approx((sum(rest) + exchange) / 1e9 / steps)
    assert value(metrics, "alltoall_exposed_seconds_total") == pytest.approx(
        value(metrics, "step_stage_seconds_total", stage="wait")
    )


def test_shards_in_one_process_compute_in_turn_and_that_is_no_communication(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = Sleeper()
    sleeper.into(monkeypatch, experts.shard.ExpertShard, "compute")
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        mesh.generate([[1, 2, 3, 4, 5, 6]], greedy(6))
    trips = [trip for step in mesh.records for trip in step.trace.trips if len(trip.calls) == 2]
    assert trips
    for trip in trips:
        (_, sent, _, compute, *_), (_, also_sent, queue, *_) = (call.phases_ns for call in trip.calls)
        assert sent == also_sent == 0
        assert queue >= compute >= CAUSE_S * 1e9
    rest = min(trip.exposed_ns - TripCalls([trip]).exposed_compute_ns() for trip in trips)
    assert 0 <= rest <= tolerance(2 * CAUSE_S * 1e9)


def test_a_requests_times_are_those_it_had(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits before the first step; each layer's attention sleeps, in prefill and in three decodes."""
    waited_s, sleeper = 0.02, Sleeper()
    sleeper.into(monkeypatch, Backbone, "attention")
    took: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        for number in range(16):
            sleeper.on = bool(number % 2)
            sleeper.take()
            begun = time.monotonic()
            mesh.submit([1, 2, 3], greedy(4))
            time.sleep(waited_s)
            waited = time.monotonic() - begun
            mesh.engine.step()
            prefill, timings = sleeper.take() / 1e9, last_timings(mesh)
            decode = sleeper.take() / 1e9
            rest = (timings.queue_seconds - waited, timings.prefill_seconds - prefill, timings.decode_seconds - decode)
            took[sleeper.on].append(rest)
    causes_s = (waited_s, 3 * CAUSE_S, 9 * CAUSE_S)
    for number, cause_s in enumerate(causes_s):
        calm, slept = (min(rest[number] for rest in took[on]) for on in (False, True))
        assert abs(slept - calm) <= tolerance(cause_s * 1e9) / 1e9, number
    assert min(abs(rest[0]) for rest in took[False]) <= tolerance(waited_s * 1e9) / 1e9


def last_timings(mesh: Mesh) -> Timings:
    (events,) = mesh.drain().values()
    assert events[-1].timings is not None
    return events[-1].timings
