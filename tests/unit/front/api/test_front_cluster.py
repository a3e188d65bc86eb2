"""GetCluster: several routers' views of the shards, and what only the control plane knows."""

import pytest

from router_service.front.api.cluster_service import merge_shards
from tests.unit.front.front_fakes import report, until
from tests.unit.front.front_world import World
from tests.unit.front.shard_reports import shard


def test_views_are_merged() -> None:
    one = report("r0", shards=[shard(1, "unreachable", 0.0, None, last_error="broken pipe"), shard(0, rows=30.0)])
    two = report("r1", shards=[shard(0, rows=10.0, phase=0.5), shard(1, rows=20.0)])
    first, second = merge_shards([one, two], [])
    assert (first.shard, first.replica, first.state, first.node, first.pid) == (0, "s0", "ready", "n0", 40)
    assert (first.experts, first.weights_bytes) == (16, 1 << 20)
    assert (first.rows_per_second, first.assignments_per_second) == (40.0, 80.0)
    assert first.phase_seconds.compute == pytest.approx((0.25 * 30 + 0.5 * 10) / 40)
    assert (second.state, second.last_error) == ("ready", "broken pipe")
    assert (first.imbalance, second.imbalance) == (pytest.approx(80 / 60), pytest.approx(40 / 60))


def test_shards_without_work_have_no_phases_and_no_imbalance() -> None:
    (one,) = merge_shards([report(shards=[shard(0, rows=0.0, phase=None)])], [])
    assert not one.HasField("phase_seconds")
    assert not one.HasField("imbalance")
    assert one.HasField("rows_per_second")
    (one,) = merge_shards([report(shards=[shard(0, rows=0.0)])], [])
    assert one.phase_seconds.pack == 0.25


def test_the_directory_adds_what_no_router_reaches() -> None:
    reports = [report(shards=[shard(0), shard(1, "unreachable", 0.0, None)])]
    directory = [shard(0, "loading"), shard(1, "restarting"), shard(2, "loading", 0.0, None)]
    states = [(entry.shard, entry.state) for entry in merge_shards(reports, directory)]
    assert states == [(0, "ready"), (1, "restarting"), (2, "loading")]


def test_a_shard_is_suspect_where_no_router_hears_of_it_in_time() -> None:
    late, live = shard(0, link="suspect"), shard(0, link="live")
    gone = shard(0, "unreachable", 0.0, None, link="dead")
    for views, state in (([late, gone], "suspect"), ([gone, late], "suspect"), ([late, live], "ready")):
        reports = [report(f"r{number}", shards=[view]) for number, view in enumerate(views)]
        assert [one.state for one in merge_shards(reports, [])] == [state]
    (one,) = merge_shards([report(shards=[late])], [shard(0, "draining", 0.0, None)])
    assert one.state == "draining"


def test_copies_and_epoch() -> None:
    """A shard counts as living if any router reaches it, as for its state."""
    one = report("r0", shards=[shard(0, copies=2, epoch=3), shard(1, copies=0)])
    two = report("r1", shards=[shard(0, copies=1, epoch=3), shard(1, copies=1, epoch=2)])
    merged = merge_shards([one, two], [shard(2, "loading")])
    assert [(entry.copies, entry.epoch) for entry in merged] == [(2, 3), (1, 2), (0, 0)]
    assert [entry.HasField("copies") for entry in merged] == [True, True, False]
    (lost,) = merge_shards([report(shards=[shard(0, "unreachable", copies=0)])], [])
    assert (lost.copies, lost.HasField("copies")) == (0, True)


def test_nobody_knows_any_shard() -> None:
    assert merge_shards([], []) == []


async def test_get_cluster(world: World) -> None:
    router, client = await world.serve()
    state = await client.cluster()
    assert (state.model, len(state.shards), len(state.routers)) == ("tiny", 0, 0)
    router.say(report(shards=[shard(0)]))
    await until(lambda: bool(world.server.router_pool.reports))
    state = await client.cluster()
    assert [entry.state for entry in state.shards] == ["ready"]
    (one,) = state.routers
    assert (one.router, one.running, one.waiting, one.kv_blocks_used, one.kv_blocks_total) == ("r0", 1, 2, 3, 12)
    assert (one.decode_tokens_per_second, one.overhead_ratio, one.outstanding) == (50.0, 0.25, 0)
    assert (one.shard_imbalance, one.expert_imbalance) == (1.5, 2.0)
