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
from experts.phases import LayerTrip
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
from tests.undisturbed import off, tolerance, undisturbed

Make = Callable[..., Tiny]

CAUSE_S = 0.01
STEPS = 4  # of a round, with and without the cause each
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


def stages(step: StepRecord, statistics: Statistics) -> dict[str, float]:
    """One step's stages, as the series have them, in nanoseconds."""
    before = dict(statistics.stage_seconds)
    statistics.observe(step)
    statistics.settle()
    return {stage: (seconds - before[stage]) * 1e9 for stage, seconds in statistics.stage_seconds.items()}


class Steps:
    """Decode steps with and without a sleep, in turns."""

    def __init__(self, mesh: Mesh, sleeper: Sleeper) -> None:
        self.statistics = Statistics(mesh.engine.pool.placement, 3)
        self.spent: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        self.slept: list[int] = []
        self._mesh, self._sleeper = mesh, sleeper
        mesh.submit([1, 2, 3], greedy(200))
        mesh.engine.step()

    def measure(self) -> None:
        """One round. Before each step the engine has been idle as long as the cause lasts."""
        for number in range(2 * STEPS):
            self._sleeper.on = bool(number % 2)
            time.sleep(CAUSE_S)
            self._sleeper.take()
            self._mesh.engine.step()
            self.spent[self._sleeper.on].append(stages(self._mesh.records[-1], self.statistics))
            self.slept += [self._sleeper.take()] if self._sleeper.on else []

    def wrong(self, stage: str) -> list[str]:
        """Complaints of stages that are not what they were, but for the sleep in its own."""
        calm = {name: min(one[name] for one in self.spent[False]) for name in STAGES}
        found = []
        for name in STAGES:
            shown = zip(self.spent[True], self.slept, strict=True)
            rest = min(one[name] - (ns if name == stage else 0) for one, ns in shown)
            found += off(name, rest, calm[name], min(self.slept))
        return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_sleep_is_in_its_stage_and_in_no_other(tiny: Make, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    sleeper = Sleeper()
    with Mesh(tiny("deepseek_v3").plan, 2) as mesh:
        sleeper.into(monkeypatch, *CAUSES[stage])
        steps = Steps(mesh, sleeper)
        undisturbed(steps.measure, lambda: steps.wrong(stage))
    metrics = exposed(steps.statistics)
    total = sum(value(metrics, "step_stage_seconds_total", stage=name) for name in STAGES)
    assert total == pytest.approx(value(metrics, "step_seconds_sum", kind="decode"), rel=0.02)
    assert value(metrics, "step_seconds_sum", kind="decode") >= sum(steps.slept) / 1e9
    assert value(metrics, "step_seconds_count", kind="decode") == 2 * len(steps.slept)


@pytest.mark.parametrize("own_s", [0.01, 0.03], ids=["less than the shards", "more than the shards"])
def test_work_beside_the_shards_hides_their_time(tiny: Make, monkeypatch: pytest.MonkeyPatch, own_s: float) -> None:
    """Shards compute for 20 ms while a shared expert takes 10 or 30: 10 ms are left to wait for, or none at all."""
    shards_s, sleeper = 0.02, Sleeper(own_s)
    sleeper.into(monkeypatch, Backbone, "shared")
    with Mesh(tiny("deepseek_v3").plan, 2, "unix", delays={0: shards_s, 1: shards_s}) as mesh:
        statistics = Statistics(mesh.engine.pool.placement, 3)
        undisturbed(
            lambda: mesh.generate([[1, 2, 3]], greedy(2 * STEPS)) and None,
            lambda: off("exposed", min(beside(mesh, sleeper, shards_s), key=abs), 0, shards_s * 1e9),
        )
    # What is left of the wait is compute, as the shards slept in it.
    rest = [communication(trip) for trip in trips_of(mesh)]
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


def trips_of(mesh: Mesh) -> list[LayerTrip]:
    return [trip for step in mesh.records for trip in step.trace.trips]


def beside(mesh: Mesh, sleeper: Sleeper, shards_s: float) -> list[float]:
    """For each trip, by how much the wait differs from what the shards still had to sleep."""
    pairs = zip(trips_of(mesh), sleeper.each_ns, strict=True)
    return [trip.exposed_ns - max(0.0, shards_s * 1e9 - slept) for trip, slept in pairs]


def test_shards_in_one_process_compute_in_turn_and_that_is_no_communication(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = Sleeper()
    sleeper.into(monkeypatch, experts.shard.ExpertShard, "compute")
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        undisturbed(
            lambda: mesh.generate([[1, 2, 3, 4, 5, 6]], greedy(6)) and None,
            lambda: off("communication", min(map(communication, both(mesh))), 0, 2 * CAUSE_S * 1e9),
        )
    for trip in both(mesh):
        (_, sent, _, compute, *_), (_, also_sent, queue, *_) = (call.phases_ns for call in trip.calls)
        assert sent == also_sent == 0
        assert queue >= compute >= CAUSE_S * 1e9
        assert communication(trip) >= 0


def both(mesh: Mesh) -> list[LayerTrip]:
    """The trips that asked both shards."""
    return [trip for trip in trips_of(mesh) if len(trip.calls) == 2]


def communication(trip: LayerTrip) -> int:
    return trip.exposed_ns - TripCalls([trip]).exposed_compute_ns()


def test_a_requests_times_are_those_it_had(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits before the first step; each layer's attention sleeps, in prefill and in three decodes."""
    waited_s, sleeper = 0.02, Sleeper()
    sleeper.into(monkeypatch, Backbone, "attention")
    rests: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}

    def measure() -> None:
        for on in (False, True) * STEPS:
            sleeper.on = on
            rests[on].append(request_rests(mesh, sleeper, waited_s))

    def wrong() -> list[str]:
        found = []
        for number, cause_s in enumerate((waited_s, 3 * CAUSE_S, 9 * CAUSE_S)):
            calm, slept = (min(rest[number] for rest in rests[on]) * 1e9 for on in (False, True))
            found += off(("queue", "prefill", "decode")[number], slept, calm, cause_s * 1e9)
        least = min(abs(rest[0]) for rest in rests[False])
        return found + off("queue against the clock", least * 1e9, 0, waited_s * 1e9)

    with Mesh(tiny("mixtral").plan, 2) as mesh:
        undisturbed(measure, wrong)


def request_rests(mesh: Mesh, sleeper: Sleeper, waited_s: float) -> tuple[float, float, float]:
    """Run a request of four tokens; its queue, prefill and decode seconds without what was waited and slept."""
    sleeper.take()
    begun = time.monotonic()
    mesh.submit([1, 2, 3], greedy(4))
    time.sleep(waited_s)
    waited = time.monotonic() - begun
    mesh.engine.step()
    prefill, timings = sleeper.take() / 1e9, last_timings(mesh)
    decode = sleeper.take() / 1e9
    return timings.queue_seconds - waited, timings.prefill_seconds - prefill, timings.decode_seconds - decode


def last_timings(mesh: Mesh) -> Timings:
    (events,) = mesh.drain().values()
    assert events[-1].timings is not None
    return events[-1].timings
