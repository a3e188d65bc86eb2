"""Each figure of the balancer's report is the series of its name, and what is not known has none."""

import asyncio
import urllib.request

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from router_service.front.telemetry.balance_series import BalanceSeries
from router_service.protocol.balance import BalanceReport, PlanReport
from tests.support.scrape import Page, value
from tests.unit.front.front_world import World

DONE = PlanReport(
    4, "done", began=900.0, ended=950.0, bytes=4096, predicted_gain=0.25, measured_gain=0.125, copies_added=3
)
FAILED = PlanReport(5, "failed", "shard 2 refused", began=960.0, ended=970.0, predicted_gain=0.5)
PREPARING = PlanReport(
    6, "preparing", began=980.0, bytes=1 << 20, predicted_gain=0.75, shards_ready=1, shards_loading=3
)
REPORT = BalanceReport(
    epoch=4,
    automatic=True,
    pinned=True,
    last_run=1000.5,
    last_success=990.25,
    runs={"moved": 2, "kept": 7},
    copies_moved=13,
    replicas_S=[10, 12, 0, 0, 5, 0],
    plans=[DONE, FAILED, PREPARING],
    shards=3,
    most_shards=6,
    interval=2.5,
    prepare_seconds=120.0,
)


def told(report: BalanceReport | None) -> Page:
    registry = CollectorRegistry()
    registry.register(BalanceSeries("m", lambda: report))
    text = generate_latest(registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def with_plans(*plans: PlanReport) -> Page:
    return told(msgspec.structs.replace(REPORT, plans=list(plans)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("balancer_last_run_timestamp_seconds", 1000.5),
        ("balancer_last_success_timestamp_seconds", 990.25),
        ("balancer_interval_seconds", 2.5),
        ("balancer_automatic", 1),
        ("placement_pinned", 1),
        ("placement_decided_epoch", 4),
        ("shards_wanted", 3),
        ("shards_limit", 6),
        ("experts_moved_total", 13),
        ("migration_in_progress", 1),
        ("migration_started_timestamp_seconds", 980),
        ("migration_limit_seconds", 120),
        ("migration_last_done_timestamp_seconds", 950),
        ("migration_last_failed_timestamp_seconds", 970),
        ("rebalance_predicted_gain_ratio", 0.25),
        ("rebalance_measured_gain_ratio", 0.125),
        ("rebalance_bytes", 4096),
    ],
)
def test_a_figure_of_the_report_is_its_series(name: str, expected: float) -> None:
    assert value(told(REPORT), name) == expected


def test_runs_are_counted_by_every_result_from_zero() -> None:
    page = told(REPORT)
    counts = {result: value(page, "balancer_runs_total", result=result) for result in ("moved", "kept", "failed")}
    assert counts == {"moved": 2, "kept": 7, "failed": 0}


def test_a_result_that_nobody_knows_makes_no_series() -> None:
    page = told(msgspec.structs.replace(REPORT, runs={"moved": 1, "dizzy": 3}))
    labels = {sample.labels["result"] for sample in page["expertmesh_balancer_runs"].samples}
    assert labels == {"moved", "kept", "failed"}


def test_copies_are_told_of_shards_that_hold_some_or_are_wanted() -> None:
    """There is room for shards 3 and 5: a series each, for ever 0, would tell nothing."""
    samples = told(REPORT)["expertmesh_expert_replicas"].samples
    assert {sample.labels["shard"]: sample.value for sample in samples} == {"0": 10, "1": 12, "2": 0, "4": 5}


def test_shards_of_a_migration_are_told_while_it_lasts() -> None:
    page = told(REPORT)
    assert [value(page, "migration_shards", state=state) for state in ("ready", "all")] == [1, 3]
    after = with_plans(DONE)
    assert value(after, "migration_in_progress") == 0
    assert samples(after, "migration_shards") == samples(after, "migration_started_timestamp_seconds") == 0


@pytest.mark.parametrize("state", ["preparing", "switched"])
def test_routers_that_change_over_are_still_a_migration(state: str) -> None:
    assert value(with_plans(msgspec.structs.replace(PREPARING, state=state)), "migration_in_progress") == 1


def test_the_gains_are_of_the_plan_in_effect() -> None:
    """A failed plan, or one that shards prepare for, gives nothing that could be compared with its promise."""
    switched = msgspec.structs.replace(PREPARING, state="switched")
    page = with_plans(DONE, FAILED, switched)
    assert value(page, "rebalance_predicted_gain_ratio") == 0.75
    assert samples(page, "rebalance_measured_gain_ratio") == 0
    assert samples(with_plans(FAILED), "rebalance_predicted_gain_ratio") == 0


def test_a_gain_of_nothing_is_measured_all_the_same() -> None:
    assert value(with_plans(msgspec.structs.replace(DONE, measured_gain=0.0)), "rebalance_measured_gain_ratio") == 0


def test_what_has_never_been_has_no_time() -> None:
    page = told(BalanceReport())
    for name in ("balancer_last_run", "balancer_last_success", "migration_last_done", "migration_last_failed"):
        assert samples(page, f"{name}_timestamp_seconds") == 0
    assert value(page, "migration_in_progress") == 0


def test_a_balancer_that_was_not_heard_has_no_series() -> None:
    assert told(None) == {}


def test_the_number_of_series_is_bounded_by_the_shards_that_hold_some() -> None:
    room = BalanceReport(replicas_S=[3] * 64 + [0] * 192, plans=[DONE] * 500, shards=64, most_shards=256)
    assert sum(len(family.samples) for family in told(room).values()) < 64 + 30


def samples(page: Page, name: str) -> int:
    return len(page[f"expertmesh_{name}"].samples)


async def test_a_front_exports_what_its_control_plane_says(world: World) -> None:
    world.metrics_port = 0
    await world.serve()
    assert "balancer_runs" not in await scraped(world)
    world.balance = REPORT
    page = await scraped(world)
    assert 'expertmesh_balancer_runs_total{model="tiny",result="moved"} 2.0' in page
    assert 'expertmesh_expert_replicas{model="tiny",shard="1"} 12.0' in page


async def scraped(world: World) -> str:
    url = f"http://127.0.0.1:{world.server.metrics_port}/metrics"
    return await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
