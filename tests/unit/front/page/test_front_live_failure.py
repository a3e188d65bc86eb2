"""What the live page is told of failures: links by state, the latest failovers of all routers, degraded tokens."""

from experts.links.state import LinkState
from router_service.front.page.failure import SHOWN_FAILOVERS, failure, links
from router_service.protocol.messages import FailoverReport, decode_to_front, encode
from tests.unit.front.front_fakes import report
from tests.unit.front.front_world import World
from tests.unit.front.http_world import browse, snapshots
from tests.unit.front.shard_reports import shard


def test_links_are_counted_over_routers() -> None:
    first = report(shards=[shard(0, link=LinkState.LIVE), shard(1, link=LinkState.SUSPECT)])
    second = report("r1", shards=[shard(0, link=LinkState.LIVE), shard(1, "unreachable", link=LinkState.DEAD)])
    assert links([first, second]) == {0: {"live": 2}, 1: {"suspect": 1, "dead": 1}}


def test_a_router_that_tells_no_links_is_left_out() -> None:
    assert links([report(shards=[shard(0)])]) == {0: {}}


def test_failovers_of_all_routers_come_newest_first_and_not_too_many() -> None:
    first = report(failovers=[FailoverReport(float(at), 1, "eof", 0.1) for at in range(0, 20, 2)])
    second = report("r1", failovers=[FailoverReport(float(at), 0, "suspect", 0.2) for at in range(1, 21, 2)])
    shown = failure([first, second])["failovers"]
    assert [one["at"] for one in shown] == list(range(19, 19 - SHOWN_FAILOVERS, -1))
    assert [one["router"] for one in shown[:2]] == ["r1", "r0"]
    assert shown[1] == {"at": 18.0, "router": "r0", "shard": 1, "reason": "eof", "seconds": 0.1}


def test_degraded_tokens_add_up_and_the_router_that_misses_most_experts_counts() -> None:
    told = failure(
        [
            report(degraded_tokens=3, unavailable_experts=2, epoch=4),
            report("r1", degraded_tokens=4, unavailable_experts=5, epoch=3),
        ]
    )
    assert (told["degraded_tokens"], told["unavailable_experts"], told["epoch"]) == (7, 5, 4)


def test_without_a_router_nothing_has_failed() -> None:
    assert failure([]) == {"failovers": [], "degraded_tokens": 0, "unavailable_experts": 0, "epoch": 0}


def test_failovers_survive_the_wire() -> None:
    told = report(failovers=[FailoverReport(1.5, 2, "eof", 0.25)], epoch=9)
    assert decode_to_front(encode(told)) == told


async def test_a_snapshot_has_them(world: World) -> None:
    router, browser = await browse(world)
    failovers = [FailoverReport(1.0, 1, "eof", 0.125)]
    router.say(report(shards=[shard(0, link="live"), shard(1, link="suspect")], failovers=failovers, degraded_tokens=8))
    async with browser:
        _, seen = await snapshots(browser, lambda data: data["failure"]["degraded_tokens"] == 8)
    assert [one["links"] for one in seen["shards"]] == [{"live": 1}, {"suspect": 1}]
    # A shard that is late serves all the same.
    assert [(one["state"], one["rows_per_second"]) for one in seen["shards"]] == [("ready", 10.0), ("suspect", 10.0)]
    assert [one["reason"] for one in seen["failure"]["failovers"]] == ["eof"]
