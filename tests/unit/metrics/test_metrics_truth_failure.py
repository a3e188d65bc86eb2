"""The failure series say what was injected: dead links, lost copies, failovers, hedges, degraded tokens."""

from collections.abc import Callable, Iterator

import pytest

from experts.links.record import REASONS, FailureRecord
from experts.links.state import LinkState
from experts.placement import LayerPlacement, Placement, even_placement
from router_service.metrics.failure_series import FailureGauges, failure_series
from router_service.metrics.series_builder import SeriesBuilder
from router_service.protocol.messages import Submit
from router_service.router.reporting.failure_view import living_copies, unavailable_experts
from tests.support.mesh import greedy, until
from tests.support.scrape import Page, page, value
from tests.support.tiny import Tiny
from tests.unit.metrics.live_router import Live

EXPERTS = 6


def exposed(failure: FailureGauges) -> Page:
    builder = SeriesBuilder({"model": "m", "router": "r0"})
    failure_series(builder, failure)
    return page(builder.metric_families)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("asks", "asks"),
        ("duplicates", "hedged_asks"),
        ("duplicates_won", "hedged_asks_won"),
        ("late_answers", "late_answers"),
        ("cancels", "cancelled_asks"),
        ("suspicions", "suspicions"),
        ("forgiven", "suspicions_forgiven"),
    ],
)
def test_a_count_of_the_record_is_the_series_of_its_name_and_no_other(field: str, name: str) -> None:
    before, record = exposed(FailureGauges()), FailureRecord()
    setattr(record, field, 7)
    after = exposed(FailureGauges(record=record))
    assert value(after, f"{name}_total") == 7
    assert {n for n in after if after[n] != before[n]} == {f"expertmesh_{name}"}


def test_failovers_are_counted_by_reason_from_zero() -> None:
    record = FailureRecord()
    for reason in ("eof", "suspect", "suspect"):
        record.failed_over(reason, 0.1, 1)
    told = exposed(FailureGauges(record=record))
    counts = {reason: value(told, "failovers_total", reason=reason) for reason in REASONS}
    assert counts == dict.fromkeys(REASONS, 0) | {"eof": 1, "suspect": 2}


def test_a_link_has_one_state() -> None:
    links = tuple(LinkState)
    told = exposed(FailureGauges(links=links))
    for shard, now in enumerate(links):
        states = [value(told, "shard_link_state", shard=str(shard), state=state) for state in LinkState]
        assert states == [float(state is now) for state in LinkState]


@pytest.mark.parametrize(
    ("copies", "dead", "fewest", "unavailable"),
    [
        (1, [], (1, 1, 1), 0),
        (1, [1], (1, 0, 1), 2),
        (2, [], (2, 2, 2), 0),
        (2, [1], (1, 1, 1), 0),
        (2, [1, 2], (1, 0, 0), 2),
        (3, [0, 2], (1, 1, 1), 0),
        (3, [0, 1, 2], (0, 0, 0), 6),
    ],
)
def test_copies_are_counted_where_they_live(
    copies: int, dead: list[int], fewest: tuple[int, ...], unavailable: int
) -> None:
    placement, usable = even_placement(EXPERTS, 3, copies), [shard not in dead for shard in range(3)]
    assert living_copies(placement, usable) == fewest
    assert unavailable_experts(placement, usable) == unavailable


def test_a_layer_of_its_own_counts_too() -> None:
    special = LayerPlacement(((0,), (1,), (1,), (0, 1), (0,), (0,)))
    placement = Placement(2, even_placement(EXPERTS, 2, 2).everywhere, {3: special})
    assert living_copies(placement, [True, False]) == (1, 0)
    assert unavailable_experts(placement, [True, False]) == 2


def test_a_shard_that_holds_nothing_has_no_copies_to_lose() -> None:
    assert living_copies(Placement(2, LayerPlacement(((0,),))), [True, True]) == (1, None)


@pytest.fixture(params=[1, 2], ids=["one copy", "two copies"])
def live(tiny: Callable[..., Tiny], request: pytest.FixtureRequest) -> Iterator[Live]:
    live = Live(tiny("mixtral"), copies=request.param)
    yield live
    live.close()


def state(live: Live) -> tuple[list[float], list[float], float]:
    """Whether each shard is live, the copies of its experts, and the experts that are gone."""
    told = live.page()
    living = [value(told, "shard_link_state", shard=shard, state="live") for shard in "01"]
    return living, [value(told, "expert_copies", shard=s) for s in "01"], value(told, "experts_unavailable")


def test_a_router_tells_which_copies_live(live: Live) -> None:
    placement = live.router.engine.pool.placement
    copies = placement.copies
    until(lambda: state(live) == ([1, 1], [copies, copies], 0), "all live")
    live.servers.stop(1)
    live.listed = live.servers.endpoints()
    lost = ([1, 0], [1, copies - 1], (0 if copies == 2 else placement.experts // 2))
    until(lambda: state(live) == lost, "the loss shows")
    assert value(live.page(), "shard_link_state", shard="1", state="dead") == 1
    report = live.report()
    assert [shard.link for shard in report.shards] == ["live", "dead"]
    assert (report.unavailable_experts, report.epoch) == (lost[2], placement.epoch)


def test_a_router_tells_of_its_failovers_and_degraded_tokens(live: Live) -> None:
    engine = live.router.engine
    for seconds in (0.02, 0.2, 3.0):
        engine.pool.record.failed_over("eof", seconds, 1)
    engine.fallback_tokens.update({"wait": 5, "drop": 3, "next_best": 4})
    for told in (live.page(), live.page()):  # what is taken off the record stays in the histogram
        assert value(told, "failover_seconds_count") == 3
        assert value(told, "failover_seconds_sum") == pytest.approx(3.22)
        assert value(told, "failover_seconds_bucket", le="0.25") == 2
        tokens = [value(told, "fallback_tokens_total", policy=p) for p in ("wait", "drop", "next_best", "fail")]
        assert tokens == [5, 3, 4, 0]
    report = live.report()
    assert [(one.shard, one.reason, one.seconds) for one in report.failovers] == [
        (1, "eof", seconds) for seconds in (0.02, 0.2, 3.0)
    ]
    assert report.degraded_tokens == 7


@pytest.fixture
def copied(tiny: Callable[..., Tiny]) -> Iterator[Live]:
    """Both shards hold every expert, and beat."""
    live = Live(tiny("mixtral"), copies=2)
    until(lambda: state(live) == ([1, 1], [2, 2], 0), "all live")
    yield live
    live.close()


def failovers(live: Live) -> dict[str, float]:
    told = live.page()
    return {reason: value(told, "failovers_total", reason=reason) for reason in REASONS}


def test_a_shard_that_computes_nothing_is_hedged(copied: Live) -> None:
    assert sum(failovers(copied).values()) == 0
    with copied.servers.running[1].turn:
        copied.router.requests.submit(0, Submit(1, "a", list(range(40)), greedy(2)))
        until(lambda: copied.router.engine.pool.record.asks > 0, "it is asked")
        until(lambda: not copied.router.engine.requests, "the other shard answers")
    told = copied.page()
    hedged, won = value(told, "hedged_asks_total"), value(told, "hedged_asks_won_total")
    assert value(told, "asks_total") > hedged >= won >= 1
    assert value(told, "cancelled_asks_total") >= 1
    assert value(told, "failover_seconds_count") == sum(failovers(copied).values()) >= 1
    last = copied.report().failovers[-1]
    assert (last.shard, last.reason) == (1, "suspect")


def test_a_shard_that_hangs_up_is_failed_over(copied: Live) -> None:
    """By its end, or by its silence if that is noticed first on a busy machine."""
    victim = copied.servers.running[1]
    with victim.turn:
        copied.router.requests.submit(0, Submit(1, "a", list(range(40)), greedy(2)))
        until(lambda: victim.queue.waiting > 0, "it is asked")
        victim.hang_up()
        until(lambda: not copied.router.engine.requests, "the other shard answers")
    counts = failovers(copied)
    assert counts["eof"] + counts["suspect"] == sum(counts.values()) >= 1
    assert {one.shard for one in copied.report().failovers} == {1}
