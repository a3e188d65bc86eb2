"""With two batches in flight each moment of a step is charged once, and a wait is what is left of a known delay."""

import time
from collections.abc import Callable

import pytest

import experts.shard.shard
from experts.timing.phase import PHASES, Phase
from experts.timing.trips import TripCalls
from experts.transport.frame import Kind
from router_service.engine.step.stage import STAGES, Stage
from router_service.metrics.collector import Statistics
from router_service.models.backbone import Backbone
from tests.support.exchange_rig import Exchange, Rig
from tests.support.mesh import Mesh, greedy
from tests.support.scrape import exposed, value
from tests.support.sleeper import Sleeper
from tests.support.tiny import Tiny
from tests.support.undisturbed import off, undisturbed

Make = Callable[..., Tiny]

CAUSE_S = 0.02
CALLS = 6
# Six experts, two shards: both are asked.
IDS = [[0, 1], [0, 3], [4, 5]]


@pytest.mark.parametrize("own_s", [0.005, 0.03], ids=["less than the link", "more than the link"])
def test_an_exposed_wait_is_what_is_left_of_the_links_delay(tiny: Make, own_s: float) -> None:
    """The router computes for each batch while the other's replies are held by the relays for a known time."""
    with Rig(tiny("mixtral").plan, lanes=2) as rig:
        errors, shown = list[int](), list[tuple[int, int]]()

        def measure() -> None:
            handles = [rig.send(IDS, 0)]
            for number in range(1, CALLS):
                time.sleep(own_s)
                handles.append(rig.send(IDS, number % 2))
                note(rig.take(handles[number - 1], IDS))
            note(rig.take(handles[-1], IDS))

        def note(one: Exchange) -> None:
            left = max(0, passed_ns(rig, one) - one.trip.waiting_ns)
            shown.append((one.trip.exposed_ns, left))
            errors.append(abs(one.trip.exposed_ns - left))

        rig.ask(IDS)
        for relay in rig.relays:
            relay.hold_s[Kind.PARTIALS] = CAUSE_S
        undisturbed(measure, lambda: off("waiting, of what the relays still held", min(errors), 0, CAUSE_S * 1e9))
        told = value(exposed(rig.statistics), "alltoall_exposed_seconds_total")
        assert told >= sum(ns for ns, _ in shown) / 1e9
        lefts = [left for _, left in shown]
        assert min(lefts) == 0 if own_s > CAUSE_S else max(lefts) > 0


def passed_ns(rig: Rig, one: Exchange) -> int:
    """When the last relay let its reply go."""
    return max(relay.passed_ns[Kind.PARTIALS, one.sequence(shard)] for shard, relay in enumerate(rig.relays))


def test_a_call_behind_the_other_batchs_is_queue_and_no_transfer(tiny: Make) -> None:
    """Both are sent at once to shards that compute for 20 ms: the second waits for the first one's computation."""
    with Rig(tiny("mixtral").plan, lanes=2, delays={0: CAUSE_S, 1: CAUSE_S}) as rig:
        rig.ask(IDS)
        pairs = list[tuple[Exchange, Exchange]]()

        def measure() -> None:
            for _ in range(CALLS):
                first, second = rig.send(IDS, 0), rig.send(IDS, 1)
                pairs.append((rig.take(first, IDS), rig.take(second, IDS)))

        def wrong() -> list[str]:
            return [
                complaint
                for shard in (0, 1)
                for complaint in (
                    *off("queue", min(abs(queue_error(a, b, shard)) for a, b in pairs), 0, CAUSE_S * 1e9),
                    *off("dispatch", min(b.ns(shard, "dispatch") for _, b in pairs), 0, 10 * CAUSE_S * 1e9),
                    *off("compute", min(b.ns(shard, "compute") for _, b in pairs), CAUSE_S * 1e9, CAUSE_S * 1e9),
                )
            ]

        undisturbed(measure, wrong)
        for pair in pairs:
            for one in pair:
                assert min(one.ns(shard, phase) for shard in (0, 1) for phase in PHASES) >= 0
                assert one.trip.exposed_ns >= TripCalls([one.trip]).exposed_compute_ns()


def queue_error(first: Exchange, second: Exchange, shard: int) -> int:
    """The second call's queue, less the rest of the first one's computation when it was received."""
    before = first.handle.started_ns + sum(first.ns(shard, phase) for phase in ("pack", "dispatch", "queue", "compute"))
    received = second.handle.started_ns + second.ns(shard, "pack") + second.ns(shard, "dispatch")
    return second.ns(shard, Phase.QUEUE) - max(0, before - received)


CAUSES = {
    Stage.ATTENTION: (Backbone, "attention"),
    Stage.SHARED_EXPERT: (Backbone, "shared"),
    Stage.OTHER: (Backbone, "logits"),
}


@pytest.mark.parametrize("stage", CAUSES)
def test_stages_add_up_to_the_step(tiny: Make, monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    """A sleep in either batch is in its stage; what shards sleep meanwhile is nowhere else."""
    own, shards = Sleeper(CAUSE_S / 4), Sleeper(CAUSE_S)
    own.into(monkeypatch, *CAUSES[stage])
    shards.into(monkeypatch, experts.shard.shard.ExpertShard, "compute")
    with Mesh(tiny("deepseek_v3").plan, 2, "unix", overlap="on") as mesh:
        mesh.generate([[1, 2]] * 8, greedy(6))
    statistics = Statistics(lambda: mesh.engine.pool.placement, 3)
    for record in mesh.records:
        # One clock runs through both batches: nothing is charged twice.
        assert sum(record.trace.stages_ns.values()) <= record.duration_ns
        assert record.trace.stages_ns[Stage.WAIT] == sum(trip.exposed_ns for trip in record.trace.trips)
        assert min(record.trace.stages_ns.values()) >= 0
        statistics.observe(record)
    metrics = exposed(statistics)
    assert value(metrics, "step_stage_seconds_total", stage=stage) >= sum(own.each_ns) / 1e9
    total = sum(value(metrics, "step_stage_seconds_total", stage=name) for name in STAGES)
    steps = sum(value(metrics, "step_seconds_sum", kind=kind) for kind in ("prefill", "decode", "mixed"))
    assert total == pytest.approx(steps, rel=0.02)
    assert value(metrics, "alltoall_exposed_seconds_total") == pytest.approx(
        value(metrics, "step_stage_seconds_total", stage="wait")
    )
    rows = sum(value(metrics, "alltoall_assignments_total", shard=shard) for shard in "01")
    # 16 rows, then 8 in each of five steps; two layers of experts, three experts for each.
    assert rows == (16 + 5 * 8) * 2 * 3
    assert 0 <= value(metrics, "alltoall_overhead_ratio") <= 1
