"""The figures tell the truth: a known skew and a known delay appear as what they are, and nowhere else."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from prometheus_client.metrics_core import Metric

from experts.costs import ShardCosts
from experts.placement import even_placement, placement_of
from experts.routing import LOST, Routing
from experts.timing.phase import PHASES, Phase
from experts.timing.phases import CallPhases, LayerTrip
from experts.timing.trips import TripCalls
from experts.transport.call import Form
from experts.transport.frame import HEADER
from router_service.config import MetricsConfig
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.stage import STAGES, Stage
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.collector import Statistics
from router_service.metrics.router_series import router_series
from router_service.metrics.shard_series import shard_series
from router_service.metrics.windows import Window
from tests.support.mesh import Mesh, greedy, until
from tests.support.scrape import GAUGES, exposed, openmetrics, page, value
from tests.support.tiny import Tiny
from tests.support.trips import trips_of
from tests.support.undisturbed import undisturbed

DELAY_S = 0.05
# What a busy machine may add to the least disturbed of many times.
SLACK_S = 0.03


def routed(counts_E: list[int]) -> Routing:
    """One expert a token, as often as `counts_E` says."""
    ids = np.repeat(np.arange(len(counts_E)), counts_E)[:, None]
    return Routing(ids, np.ones(ids.shape, np.float32))


def record(routings: list[tuple[int, Routing]], trips: list[LayerTrip] | None = None) -> StepRecord:
    return StepRecord(10**9, 5, 3, StepTrace(trips=trips or [], routings=routings))


def test_a_router_that_rests_says_nothing_of_balance() -> None:
    """Its layers would be even, and the mean over routers would hide those of one that works."""
    stats = Statistics(lambda: placement_of(((5, 0, 3), (1, 2, 4))), 1)
    routings = [(0, routed([600, 0, 100, 300, 200, 0]))]
    stats.observe(record(routings, trips_of(routings, placement_of(((5, 0, 3), (1, 2, 4))))))
    stats.flush()
    nothing = stats.cumulative.minus(stats.cumulative)
    resting = page(router_series(stats, nothing, GAUGES, {}, MetricsConfig(per_layer=True, per_expert=True)))
    balance = ("expert_load_imbalance", "balancedness", "max_violation", "router_entropy_ratio", "dead_experts")
    assert {f"expertmesh_{name}" for name in balance} & set(resting) == set()
    assert value(resting, "shard_load_imbalance_count") == 1
    assert value(resting, "expert_tokens_total", layer="0", expert="3") == 300


def test_a_known_skew_has_its_known_values() -> None:
    """Layer 1 is dense. Experts 0, 3, 5 live on shard 0, the others on shard 1."""
    stats = Statistics(lambda: placement_of(((5, 0, 3), (1, 2, 4))), 3)
    skewed, even = [600, 0, 100, 300, 200, 0], [200] * 6
    routings = [(0, routed(skewed)), (2, routed(even))]
    for _ in range(2):
        stats.observe(record(routings, trips_of(routings, placement_of(((5, 0, 3), (1, 2, 4))))))
    metrics = exposed(stats)
    assert value(metrics, "shard_load_imbalance_sum") == pytest.approx(2 * (900 / 600 + 1))
    assert value(metrics, "shard_load_imbalance_count") == 4
    assert value(metrics, "expert_load_imbalance") == pytest.approx((600 / 200 + 1) / 2)
    assert value(metrics, "balancedness") == pytest.approx((600 / 900 + 1) / 2)
    assert value(metrics, "max_violation") == pytest.approx((600 - 200) / 200 / 2)
    assert value(metrics, "dead_experts") == 2
    entropy = -sum(share * math.log(share) for share in (1 / 2, 1 / 12, 1 / 4, 1 / 6)) / math.log(6)
    assert value(metrics, "router_entropy_ratio") == pytest.approx((entropy + 1) / 2)
    assert stats.imbalance(stats.cumulative) == pytest.approx({"shard_imbalance": 1.25, "expert_imbalance": 2.0})


def test_room_for_more_shards_says_nothing_of_balance() -> None:
    placement = even_placement(4, 2, room=8)
    stats, routings = Statistics(lambda: placement, 1), [(0, routed([30, 30, 10, 10]))]
    stats.observe(record(routings, trips_of(routings, placement)))
    metrics = exposed(stats)
    assert value(metrics, "shard_load_imbalance_sum") == pytest.approx(60 / 40)
    assert value(metrics, "balancedness") == pytest.approx(40 / 60)
    assert stats.imbalance(stats.cumulative)["shard_imbalance"] == pytest.approx(1.5)


def test_modelled_times_are_those_of_who_was_asked() -> None:
    """Each expert costs 20 us, each pair 2 us and a call 30 us, as long as nothing else is known."""
    placement = placement_of(((0, 1), (2, 3), ()))
    stats, routings = Statistics(lambda: placement, 2), [(0, routed([30, 10, 5, 0])), (1, routed([0, 0, 1, 1]))]
    stats.observe(record(routings, trips_of(routings, placement)))
    stats.flush()
    sums = stats.cumulative
    assert stats.modelled() == (2, sums.slowest_us, sums.mean_us)
    assert sums.slowest_us == pytest.approx((30 + 40 + 80) + (30 + 40 + 4))
    assert sums.mean_us == pytest.approx(((30 + 40 + 80) + (30 + 20 + 10)) / 2 + (30 + 40 + 4))
    assert sums.minus(sums.copy()).slowest_us == 0


def test_what_calls_cost_is_learnt_and_told() -> None:
    told: list[ShardCosts] = []
    stats = Statistics(lambda: placement_of(((0,), (1,))), 1, told.append)
    phases = [tuple(10**6 * (1 + shard) if phase is Phase.COMPUTE else 0 for phase in PHASES) for shard in (0, 1)]
    calls = [CallPhases(shard, phases[shard], 4, 4, 0, 0, 10**9, experts=1) for shard in (0, 1)] * 64
    for _ in range(4):
        trip = LayerTrip.of(0, calls, pack_ns=0, exposed_ns=0, reduce_ns=0, waiting_ns=0)
        stats.observe(record([], [trip]))
        stats.flush()
    assert told[-1].of(np.ones(2, np.int64), np.full(2, 4)).tolist() == pytest.approx([1000, 2000], rel=0.05)


def test_large_series_are_opt_in_and_bounded() -> None:
    stats = Statistics(lambda: placement_of(((0, 1, 2), (3, 4, 5))), 3)
    stats.observe(record([(0, routed([600, 0, 100, 300, 200, 0])), (2, routed([200] * 6))]))
    assert "expertmesh_expert_tokens" not in exposed(stats)
    metrics = exposed(stats, MetricsConfig(per_layer=True, per_expert=True, top_experts=2))
    assert [value(metrics, "dead_experts", layer=layer) for layer in "02"] == [2, 0]
    assert [value(metrics, "expert_load_imbalance", layer=layer) for layer in "02"] == [3, 1]
    assert value(metrics, "router_entropy_ratio", layer="2") == pytest.approx(1)
    assert value(metrics, "expert_tokens_total", layer="0", expert="0") == 600
    assert value(metrics, "expert_tokens_total", layer="0", expert="3") == 300
    assert len(metrics["expertmesh_expert_tokens"].samples) == 4


def test_dead_experts_are_named_once_there_are_enough_tokens() -> None:
    stats = Statistics(lambda: placement_of(((0, 1), (2, 3))), 1)
    stats.observe(record([(0, routed([127, 0, 0, 0]))]))
    assert "expertmesh_dead_experts" not in exposed(stats)
    stats.observe(record([(0, routed([1, 0, 0, 0]))]))
    assert value(exposed(stats), "dead_experts") == 3


def test_lost_tokens_count_nowhere() -> None:
    stats = Statistics(lambda: placement_of(((0, 1), (2, 3))), 1)
    ids = np.array([[0, 1], [LOST, LOST], [2, 3]])
    for rows in (slice(0, 3), slice(1, 2)):
        routings = [(0, Routing(ids[rows], np.ones(ids[rows].shape, np.float32)))]
        stats.observe(record(routings, trips_of(routings, placement_of(((0, 1), (2, 3))))))
        stats.flush()
        assert stats.cumulative.expert_tokens_LE.tolist() == [[1, 1, 1, 1]]
    assert value(exposed(stats), "shard_load_imbalance_count") == 1


def test_calls_are_added_to_their_shard() -> None:
    stats = Statistics(lambda: placement_of(((0,), (1,))), 1)
    first = CallPhases(0, tuple(n * 10**6 for n in (1, 2, 3, 4, 5, 6)), 7, 9, 700, 800, 10**9)  # type: ignore[arg-type]
    second = replace(first, shard=1, rows=2, assignments=3, dispatch_bytes=20, combine_bytes=30, received_ns=2 * 10**9)
    second = replace(second, shared_ns=10**6)  # a quarter of its compute was another router's
    times_ns = {"pack_ns": 10**6, "exposed_ns": 9 * 10**6, "reduce_ns": 6 * 10**6, "waiting_ns": 2 * 10**9 - 9 * 10**6}
    trip = LayerTrip.of(0, (first, second), **times_ns)
    stats.observe(record([], [trip, trip]))
    metrics = exposed(stats)
    for number, phase in enumerate(PHASES):
        for shard in "01":
            assert value(metrics, "alltoall_phase_seconds_sum", shard=shard, phase=phase) == pytest.approx(
                2 * (number + 1) / 1000
            )
            assert value(metrics, "alltoall_phase_seconds_count", shard=shard, phase=phase) == 2
    assert [value(metrics, "alltoall_rows_total", shard=shard) for shard in "01"] == [14, 4]
    assert [value(metrics, "alltoall_assignments_total", shard=shard) for shard in "01"] == [18, 6]
    assert [value(metrics, "expert_compute_seconds_total", shard=shard) for shard in "01"] == [0.008, 0.006]
    assert value(metrics, "alltoall_bytes_total", shard="0", direction="dispatch") == 1400
    assert value(metrics, "alltoall_bytes_total", shard="1", direction="combine") == 60
    assert value(metrics, "straggler_wait_seconds_total") == pytest.approx(2 * 0.5)
    assert value(metrics, "alltoall_exposed_seconds_total") == pytest.approx(2 * 0.009)
    assert value(metrics, "alltoall_overhead_ratio") == pytest.approx(2 * (0.009 - 0.004))
    assert value(metrics, "step_seconds_count", kind="mixed") == 1
    assert value(metrics, "iteration_tokens_total_sum") == 8


def test_a_window_is_the_last_minute() -> None:
    stats = Statistics(lambda: placement_of(((0,), (1,))), 1)
    window = Window(stats.cumulative, 0.0)
    for second in range(1, 200):
        stats.observe(record([(0, routed([1, 1]))]))
        stats.flush()
        recent, seconds = window.advance(stats.cumulative, float(second))
        assert seconds == min(second, 61)
        assert recent.step_seconds == pytest.approx(seconds)
        assert recent.expert_tokens_LE.tolist() == [[seconds, seconds]]
    assert window.snapshots < 65


@pytest.fixture(scope="module")
def slow(tiny: Callable[..., Tiny]) -> Iterator[Mesh]:
    """Three shards, of which number 1 sleeps; a few steps are done."""
    with Mesh(tiny("mixtral").plan, 3, "unix", delays={1: DELAY_S}) as mesh:
        mesh.stats = Statistics(lambda: mesh.engine.pool.placement, 3)  # type: ignore[attr-defined]
        measure(mesh)
        yield mesh


def measure(mesh: Mesh) -> None:
    """A few steps, or a few more; `mesh.stats` has seen them all."""
    prompts = torch.randint(0, 131, (6, 8), generator=torch.Generator().manual_seed(1)).tolist()
    seen = len(mesh.records)
    mesh.generate(prompts, greedy(6))
    for step in mesh.records[seen:]:
        mesh.stats.observe(step)  # type: ignore[attr-defined]
    mesh.stats.flush()  # type: ignore[attr-defined]


def calls_of(mesh: Mesh, shard: int) -> list[CallPhases]:
    return [call for step in mesh.records for trip in step.trace.trips for call in trip.calls if call.shard == shard]


def test_a_known_delay_is_the_compute_of_its_shard_and_of_no_other(slow: Mesh) -> None:
    def wrong() -> list[str]:
        return [
            f"shard {shard}, {phase}: {seconds:.3f} s"
            for shard in range(3)
            for phase, seconds in zip(PHASES, least_phases(slow, shard), strict=True)
            if seconds >= (DELAY_S if (shard, phase) == (1, Phase.COMPUTE) else 0.0) + SLACK_S
        ]

    undisturbed(lambda: measure(slow), wrong)
    assert min(call.ns(Phase.COMPUTE) for call in calls_of(slow, 1)) >= DELAY_S * 1e9
    assert all(min(call.phases_ns) >= 0 for shard in range(3) for call in calls_of(slow, shard))


def least_phases(mesh: Mesh, shard: int) -> list[float]:
    """The least seconds of each phase of a shard's calls."""
    phases: list[float] = (np.min([call.phases_ns for call in calls_of(mesh, shard)], axis=0) / 1e9).tolist()
    return phases


def test_a_known_delay_is_waited_for_and_is_no_communication(slow: Mesh) -> None:
    undisturbed(lambda: measure(slow), lambda: wrong_wait(trips_of_all(slow)))
    trips = trips_of_all(slow)
    assert len(trips) >= 9
    assert all(TripCalls([trip]).exposed_compute_ns() <= trip.exposed_ns for trip in trips)
    # What the last answer was waited for; an engine that is held up before it waits has less left to wait for.
    assert all(trip.exposed_ns >= max(c.received_ns for c in trip.calls) - trip.waiting_ns for trip in trips)


def trips_of_all(mesh: Mesh) -> list[LayerTrip]:
    """The trips that asked all three shards."""
    return [trip for step in mesh.records for trip in step.trace.trips if len(trip.calls) == 3]


def wrong_wait(trips: list[LayerTrip]) -> list[str]:
    """Of the least disturbed trip: the straggler is two thirds of the delay behind the mean; the wait is the delay."""
    behind = min(abs(TripCalls([trip]).straggler_ns() / 1e9 - DELAY_S * 2 / 3) for trip in trips)
    waiting = min(abs(trip.exposed_ns / 1e9 - DELAY_S) for trip in trips)
    communication = min(trip.exposed_ns - TripCalls([trip]).exposed_compute_ns() for trip in trips) / 1e9
    errors = {
        "straggling": behind - SLACK_S / 2,
        "waiting": waiting - SLACK_S,
        "communication": communication - SLACK_S,
    }
    return [f"{what}: {over:.3f} s too far off" for what, over in errors.items() if over >= 0]


def test_the_stages_add_up_to_the_steps(slow: Mesh) -> None:
    stats: Statistics = slow.stats  # type: ignore[attr-defined]
    undisturbed(lambda: measure(slow), lambda: unmeasured(slow.records))
    total = sum(step.duration_ns for step in slow.records) / 1e9
    assert sum(stats.stage_seconds.values()) == pytest.approx(total)
    assert all(seconds >= 0 for seconds in stats.stage_seconds.values())
    assert all(sum(step.trace.stages_ns.values()) <= step.duration_ns for step in slow.records)
    assert stats.stage_seconds[Stage.WAIT] == pytest.approx(stats.exposed_seconds)
    assert set(stats.stage_seconds) == set(STAGES)


def unmeasured(records: list[StepRecord]) -> list[str]:
    """A complaint if no step is measured by its stages but for 2%: what a machine takes in between is nobody's."""
    parts = [1 - sum(step.trace.stages_ns.values()) / step.duration_ns for step in records]
    return [f"{min(parts):.1%} of the step is no stage's"] if min(parts) > 0.02 else []


def test_a_call_is_the_sum_of_its_phases_and_bytes_are_those_on_the_wire(slow: Mesh) -> None:
    pool, random = slow.engine.pool, np.random.default_rng(0)
    ids = random.random((21, 6)).argsort(axis=1)[:, :2]
    handle = pool.dispatch(0, torch.randn(21, 48), Routing(ids, random.random((21, 2), np.float32)))
    trip = pool.combine(handle, torch.device("cpu")).trip
    groups = [handle.division.call_rows(parts) for _, parts in handle.division.runs]
    for call, group in zip(trip.calls, groups, strict=True):
        assert sum(call.phases_ns) == call.received_ns - handle.started_ns + trip.reduce_ns
        assert all(duration >= 0 for duration in call.phases_ns)
        assert (call.rows, call.assignments) == (len(group.tokens_R), len(group.rows_A))
        assert call.dispatch_bytes == HEADER.size + 64 + call.rows * 48 * 4 + call.assignments * 12
        answers = call.assignments if pool.form is Form.EACH else call.rows
        assert call.combine_bytes == HEADER.size + 64 + answers * 48 * 4
    assert sum(call.assignments for call in trip.calls) == 42


def test_what_shards_count_is_what_the_router_sent(slow: Mesh) -> None:
    stats: Statistics = slow.stats  # type: ignore[attr-defined]
    assert stats.cumulative.assignments_S.tolist() == stats.cumulative.load.counts_LS.sum(axis=0).tolist()
    assert (stats.cumulative.load.counts_LS.sum(axis=1) == stats.cumulative.expert_tokens_LE.sum(axis=1)).all()
    assert (stats.cumulative.rows_S <= stats.cumulative.assignments_S).all()
    connector = slow.connector
    assert connector is not None
    told = lambda: [connection.status.get("assignments", 0) for connection in connector.connections]  # noqa: E731
    sent = stats.cumulative.assignments_S[: len(connector.connections)]
    assert sent.sum() == stats.cumulative.assignments_S.sum()
    until(lambda: (np.array(told()) >= sent).all(), "the shards have told")


COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
CONTRACT: dict[str, tuple[str, set[str]]] = {
    "num_requests_running": (GAUGE, set()),
    "num_requests_waiting": (GAUGE, set()),
    "kv_cache_usage_perc": (GAUGE, set()),
    "prefix_cache_queries": (COUNTER, set()),
    "prefix_cache_hits": (COUNTER, set()),
    "num_preemptions": (COUNTER, set()),
    "iteration_tokens_total": (HISTOGRAM, set()),
    "alltoall_phase_seconds": (HISTOGRAM, {"shard", "phase"}),
    "clock_offset_error_seconds": (GAUGE, {"shard"}),
    "alltoall_bytes": (COUNTER, {"shard", "direction"}),
    "alltoall_rows": (COUNTER, {"shard"}),
    "alltoall_assignments": (COUNTER, {"shard"}),
    "expert_compute_seconds": (COUNTER, {"shard"}),
    "alltoall_exposed_seconds": (COUNTER, set()),
    "straggler_wait_seconds": (COUNTER, set()),
    "step_seconds": (HISTOGRAM, {"kind"}),
    "step_stage_seconds": (COUNTER, {"stage"}),
    "alltoall_overhead_ratio": (GAUGE, set()),
    "shard_load_imbalance": (HISTOGRAM, set()),
    "expert_load_imbalance": (GAUGE, set()),
    "balancedness": (GAUGE, set()),
    "max_violation": (GAUGE, set()),
    "dead_experts": (GAUGE, set()),
    "router_entropy_ratio": (GAUGE, set()),
    "router_ready": (GAUGE, set()),
    "shard_up": (GAUGE, {"shard", "replica"}),
    "shard_restarts": (COUNTER, {"shard"}),
    "dataplane_reconnects": (COUNTER, {"shard"}),
    "dataplane_rejected_connections": (COUNTER, {"shard", "reason"}),
    "thread_failures": (COUNTER, {"shard", "thread"}),
    "observer_failures": (COUNTER, {"observer"}),
    "nonfinite_logits": (COUNTER, set()),
    "shard_link_state": (GAUGE, {"shard", "state"}),
    "expert_copies": (GAUGE, {"shard"}),
    "experts_unavailable": (GAUGE, set()),
    "placement_epoch": (GAUGE, set()),
    "failovers": (COUNTER, {"reason"}),
    "failover_seconds": (HISTOGRAM, set()),
    "asks": (COUNTER, set()),
    "hedged_asks": (COUNTER, set()),
    "hedged_asks_won": (COUNTER, set()),
    "late_answers": (COUNTER, set()),
    "cancelled_asks": (COUNTER, set()),
    "suspicions": (COUNTER, set()),
    "suspicions_forgiven": (COUNTER, set()),
    "fallback_tokens": (COUNTER, {"policy"}),
    "request_faults": (COUNTER, set()),
    "structured_tokens": (COUNTER, set()),
    "structured_mask_wait_seconds": (COUNTER, set()),
    "structured_compile_seconds": (COUNTER, set()),
    "parameters": (GAUGE, {"kind"}),
    "weights_bytes": (GAUGE, {"shard", "kind"}),
    "kv_cache_bytes": (GAUGE, {"kind"}),
    "checkpoint_load_seconds": (GAUGE, {"shard"}),
    "checkpoint_load_bytes": (COUNTER, {"shard"}),
}
OF_SHARDS: dict[str, tuple[str, set[str]]] = {
    "shard_tokens": (COUNTER, {"shard"}),
    "shard_computations": (COUNTER, {"shard"}),
    "shard_merged_calls": (COUNTER, {"shard"}),
    "weights_bytes": (GAUGE, {"shard", "kind"}),
    "checkpoint_load_seconds": (GAUGE, {"shard"}),
    "checkpoint_load_bytes": (COUNTER, {"shard"}),
    "dataplane_rejected_connections": (COUNTER, {"shard", "reason"}),
    "thread_failures": (COUNTER, {"shard", "thread"}),
}
STATUS = {
    "assignments": 7,
    "computations": 5,
    "merged_calls": 4,
    "weights_bytes": 90,
    "load_seconds": 0.5,
    "rejected": {"magic": 2},
    "thread_failures": {"listener": 1},
    "experts": 3,
}


def shape(metrics: dict[str, Metric], names: list[str]) -> dict[str, tuple[str, set[str]]]:
    """Type and labels of each of our metric families, without those that every series or every bucket has."""
    shapes = {}
    for name in names:
        family = metrics[f"expertmesh_{name}"]
        assert family.samples, name
        labels = {frozenset(sample.labels) - {"model", "router", "le"} for sample in family.samples}
        assert len(labels) == 1, name
        shapes[name] = (family.type, set(labels.pop()))
    return shapes


def test_metric_families_are_those_of_the_contract() -> None:
    stats = Statistics(lambda: placement_of(((0, 1), (2, 3))), 1)
    routings = [(0, routed([100] * 4))]
    stats.observe(record(routings, trips_of(routings, placement_of(((0, 1), (2, 3))))))
    stats.flush()
    own = router_series(stats, stats.cumulative, GAUGES, {"model": "m", "router": "r0"}, MetricsConfig())
    assert shape(page(own), list(CONTRACT)) == CONTRACT
    assert {family.name.removeprefix("expertmesh_") for family in own} == set(CONTRACT)
    assert {frozenset(sample.labels) >= {"model", "router"} for family in own for sample in family.samples} == {True}
    shards = shard_series({0: STATUS, 1: {}}, {"model": "m"})
    assert shape(page(shards), list(OF_SHARDS)) == OF_SHARDS
    assert {family.name.removeprefix("expertmesh_") for family in shards} == set(OF_SHARDS)
    both = page(own + shards)
    # Prometheus asks for OpenMetrics first, which is stricter about names.
    assert {family.name for family in openmetrics(own + shards)} == set(both)
    assert value(both, "weights_bytes", shard="router", kind="dense") == 500
    assert value(both, "weights_bytes", shard="router", kind="shared_expert") == 60
    assert value(both, "weights_bytes", shard="0", kind="expert") == 90
    assert value(both, "checkpoint_load_bytes_total", shard="router") == 560
    assert value(both, "shard_tokens_total", shard="0") == 7
    assert value(both, "shard_computations_total", shard="0") == 5
    assert value(both, "shard_merged_calls_total", shard="0") == 4
    assert value(both, "kv_cache_usage_perc") == 0.25
    assert value(both, "num_preemptions_total") == 7
    assert value(both, "prefix_cache_queries_total") == 100
    assert value(both, "prefix_cache_hits_total") == 60
    assert value(both, "kv_cache_bytes", kind="used") == 1000
    assert value(both, "dataplane_rejected_connections_total", shard="0", reason="magic") == 2
    assert value(both, "dataplane_rejected_connections_total", shard="0", reason="secret") == 0
    assert value(both, "dataplane_rejected_connections_total", shard="router", router="r0", reason="magic") == 4
    assert value(both, "thread_failures_total", shard="0", thread="listener") == 1
    assert value(both, "thread_failures_total", shard="0", thread="connection") == 0
    assert value(both, "thread_failures_total", shard="router", router="r0", thread="front writer") == 1
    assert value(both, "observer_failures_total", observer="statistics") == 2
    assert value(both, "nonfinite_logits_total") == 5
    assert value(both, "request_faults_total") == 4
    assert value(both, "structured_tokens_total") == 30
    assert value(both, "structured_mask_wait_seconds_total") == 0.5
    assert value(both, "structured_compile_seconds_total") == 0.25
    assert [value(both, "shard_up", shard=n, replica=replica) for n, replica in ("0a", "1b", ("2", ""))] == [1, 0, 0]
    assert value(both, "router_ready") == 0
    assert value(both, "shard_restarts_total", shard="1") == 2
    assert value(both, "dataplane_reconnects_total", shard="1") == 3
    assert value(both, "clock_offset_error_seconds", shard="1") == 0.25
