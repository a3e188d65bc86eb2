"""The live page's summary: several routers as one, each weighted by what its figures are shares of."""

import pytest

from router_service.front.page.summary import Summary, summarize
from router_service.protocol.messages import RouterReport
from tests.unit.front.front_fakes import report, until
from tests.unit.front.front_world import World
from tests.unit.front.http_world import browse, snapshots
from tests.unit.front.shard_reports import shard

IDLE = {"step_seconds": 0.0, "decode_tokens_per_second": 0.0, "overhead_ratio": 0.0}
EVEN = {"shard_imbalance": 1.0, "expert_imbalance": 1.0}


def idle(router: str) -> RouterReport:
    return report(router, running=0, waiting=0, kv_blocks_used=0, shards=[shard(0, rows=0.0)], **(IDLE | EVEN))


def summary(*reports: RouterReport) -> Summary:
    found = summarize(reports)
    assert found is not None
    return found


def test_a_router_that_rests_changes_no_mean() -> None:
    ratios = {"overhead_ratio": 0.417, "shard_imbalance": 1.18, "expert_imbalance": 2.47}
    busy = report("r0", shards=[shard(0)], **ratios)
    both = summary(busy, idle("r1"))
    assert (both.overhead_ratio, both.shard_imbalance, both.expert_imbalance) == pytest.approx((0.417, 1.18, 2.47))
    assert (both.running, both.waiting, both.decode_tokens_per_second) == (1, 2, 50.0)
    assert both.kv_share == pytest.approx(3 / 24)


def test_means_are_weighted_by_step_time_and_by_assignments() -> None:
    """The first computes for three quarters of the time, the second computes four fifths of the pairs."""
    shards = [shard(0, rows=4.0), shard(1, rows=6.0)]
    slow = report("r0", step_seconds=30.0, shards=shards, overhead_ratio=0.2, shard_imbalance=1.0)
    fast = report("r1", step_seconds=10.0, shards=[shard(0, rows=40.0)], overhead_ratio=0.6, shard_imbalance=2.0)
    both = summary(slow, fast)
    assert both.overhead_ratio == pytest.approx((0.2 * 30 + 0.6 * 10) / 40)
    assert both.shard_imbalance == pytest.approx((1.0 * 10 + 2.0 * 40) / 50)
    assert both.expert_imbalance == pytest.approx(2.0)
    assert (both.running, both.decode_tokens_per_second) == (2, 100.0)


def test_of_routers_that_all_rest_there_is_no_mean() -> None:
    resting = summary(idle("r0"), idle("r1"))
    assert (resting.overhead_ratio, resting.shard_imbalance, resting.expert_imbalance) == (None, None, None)
    assert resting.decode_tokens_per_second == 0


def test_no_router_or_one_without_a_cache() -> None:
    assert summarize([]) is None
    assert summary(report(kv_blocks_total=0, kv_blocks_used=0)).kv_share == 0


async def test_the_snapshot_has_the_summary(world: World) -> None:
    first, browser = await browse(world)
    second = await world.router(name="r1")
    await until(lambda: world.server.linked_routers == 2)
    first.say(report("r0", shards=[shard(0)]))
    second.say(idle("r1"))
    async with browser:
        _, seen = await snapshots(browser, lambda data: len(data["routers"]) == 2)
    assert (seen["summary"]["overhead_ratio"], seen["summary"]["shard_imbalance"]) == (0.25, 1.5)
    busy, resting = sorted(seen["routers"], key=lambda row: str(row["router"]))
    assert (busy["overhead_ratio"], busy["expert_imbalance"]) == (0.25, 2.0)
    assert (resting["overhead_ratio"], resting["shard_imbalance"], resting["expert_imbalance"]) == (None, None, None)
    assert resting["running"] == 0
