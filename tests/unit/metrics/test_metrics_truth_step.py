"""Where a step's time goes, and a request's: a sleep of known length is found in its own stage and in no other."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

import experts.pool
import experts.shard.shard
import router_service.engine.conclusion
import router_service.engine.engine
import router_service.engine.step.layer_run
from experts.answers import AnswerRoom
from experts.timing.phase import Phase
from experts.timing.phases import LayerTrip
from experts.timing.trips import TripCalls
from router_service.engine.scheduling.scheduler import Scheduler
from router_service.engine.step.stage import STAGES, Stage
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.collector import Statistics
from router_service.models.backbone import Backbone
from router_service.protocol.messages import Timings
from tests.support.mesh import Mesh, greedy
from tests.support.scrape import exposed, value
from tests.support.sleeper import Sleeper
from tests.support.tiny import Tiny
from tests.support.undisturbed import off, undisturbed

Make = Callable[..., Tiny]

CAUSE_S = 0.02
STAGES_OF_A_REQUEST = ("queue", "prefill", "decode")
STEPS = 4  # of a round, with and without the cause each
# What is made to sleep, and the stage that must show it. Two of the tiny DeepSeek's three layers have experts.
CAUSES: dict[Stage, tuple[Any, str]] = {
    Stage.SCHEDULE: (Scheduler, "schedule"),
    Stage.ATTENTION: (Backbone, "attention"),
    Stage.GATE: (router_service.engine.step.layer_run, "route"),
    Stage.PACK: (experts.pool, "BlockDivision"),
    Stage.WAIT: (experts.shard.shard.ExpertShard, "compute"),
    Stage.REDUCE: (AnswerRoom, "sum"),
    Stage.SHARED_EXPERT: (Backbone, "shared"),
    Stage.SAMPLE: (router_service.engine.conclusion, "sample"),
    Stage.OTHER: (Backbone, "logits"),
}


def stages(step: StepRecord, statistics: Statistics) -> dict[str, float]:
    """One step's stages, as the series have them, in nanoseconds."""
    before = dict(statistics.stage_seconds)
    statistics.observe(step)
    statistics.flush()
    return {stage: (seconds - before[stage]) * 1e9 for stage, seconds in statistics.stage_seconds.items()}


class Steps:
    """Decode steps with and without a sleep, in turns."""

    def __init__(self, mesh: Mesh, sleeper: Sleeper) -> None:
        self.statistics = Statistics(lambda: mesh.engine.pool.placement, 3)
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
        statistics = Statistics(lambda: mesh.engine.pool.placement, 3)
        undisturbed(
            lambda: mesh.generate([[1, 2, 3]], greedy(2 * STEPS)) and None,
            lambda: wrong_beside(mesh, sleeper, shards_s * 1e9),
        )
    rest = [communication(trip) for trip in trips_of(mesh)]
    assert min(rest) >= 0
    for step in mesh.records:
        statistics.observe(step)
    metrics = exposed(statistics)
    assert value(metrics, "step_stage_seconds_total", stage="shared_expert") >= sum(sleeper.each_ns) / 1e9
    total = sum(value(metrics, "step_stage_seconds_total", stage=name) for name in STAGES)
    steps = sum(value(metrics, "step_seconds_sum", kind=kind) for kind in ("prefill", "decode", "mixed"))
    assert total == pytest.approx(steps, rel=0.02)
    exchange = sum(step.trace.stages_ns[stage] for step in mesh.records for stage in (Stage.PACK, Stage.REDUCE))
    assert value(metrics, "alltoall_overhead_ratio") == pytest.approx((sum(rest) + exchange) / 1e9 / steps)
    assert value(metrics, "alltoall_exposed_seconds_total") == pytest.approx(
        value(metrics, "step_stage_seconds_total", stage="wait")
    )


def trips_of(mesh: Mesh) -> list[LayerTrip]:
    return [trip for step in mesh.records for trip in step.trace.trips]


def wrong_beside(mesh: Mesh, sleeper: Sleeper, shards_ns: float) -> list[str]:
    """The wait is what the shards still had to sleep, and that is compute: of the least disturbed trip, both."""
    pairs = list(zip(trips_of(mesh), sleeper.each_ns, strict=True))
    errors = [abs(trip.exposed_ns - max(0.0, shards_ns - slept)) + communication(trip) for trip, slept in pairs]
    return off("waiting, and what of it is no compute", min(errors), 0, shards_ns)


def test_shards_in_one_process_compute_in_turn_and_that_is_no_communication(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = Sleeper()
    sleeper.into(monkeypatch, experts.shard.shard.ExpertShard, "compute")
    with Mesh(tiny("mixtral").plan, 2) as mesh:
        undisturbed(
            lambda: mesh.generate([[1, 2, 3, 4, 5, 6]], greedy(6)) and None,
            lambda: off("communication", min(map(communication, both(mesh))), 0, 2 * CAUSE_S * 1e9),
        )
    for trip in both(mesh):
        first, second = trip.calls
        assert first.ns(Phase.DISPATCH) == second.ns(Phase.DISPATCH) == 0
        assert second.ns(Phase.QUEUE) >= first.ns(Phase.COMPUTE) >= CAUSE_S * 1e9
        assert communication(trip) >= 0


def both(mesh: Mesh) -> list[LayerTrip]:
    """The trips that asked both shards."""
    return [trip for trip in trips_of(mesh) if len(trip.calls) == 2]


def communication(trip: LayerTrip) -> int:
    return trip.exposed_ns - TripCalls([trip]).exposed_compute_ns()


def test_a_requests_times_are_those_it_had(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits before the first step; each layer's attention sleeps, in prefill and in three decodes."""
    sleeper, errors = Sleeper(), dict[str, list[float]]()
    sleeper.into(monkeypatch, Backbone, "attention")
    causes_s = {"queue": 2 * CAUSE_S, "prefill": 3 * CAUSE_S, "decode": 9 * CAUSE_S}

    def measure() -> None:
        for _ in range(STEPS):
            told, seen = times_of_a_request(mesh, causes_s["queue"])
            for name, cause_s in causes_s.items():
                assert seen[name] >= cause_s
                errors.setdefault(name, []).append(told[name] - seen[name])

    def wrong() -> list[str]:
        least = {name: min(map(abs, found)) * 1e9 for name, found in errors.items()}
        return [text for name, cause_s in causes_s.items() for text in off(name, least[name], 0, cause_s * 1e9)]

    with Mesh(tiny("mixtral").plan, 2) as mesh:
        undisturbed(measure, wrong)


def times_of_a_request(mesh: Mesh, wait_s: float) -> tuple[dict[str, float], dict[str, float]]:
    """What is told of a request of four tokens, and what a clock beside it says, in seconds."""
    moments = [time.monotonic()]
    mesh.submit([1, 2, 3], greedy(4))
    time.sleep(wait_s)
    moments.append(time.monotonic())
    mesh.engine.step()
    moments.append(time.monotonic())
    told = last_timings(mesh)
    moments.append(time.monotonic())
    seen = {name: end - begun for name, (begun, end) in zip(STAGES_OF_A_REQUEST, pairwise(moments), strict=True)}
    return {name: getattr(told, f"{name}_seconds") for name in seen}, seen


def last_timings(mesh: Mesh) -> Timings:
    (events,) = mesh.drain().values()
    assert events[-1].timings is not None
    return events[-1].timings
