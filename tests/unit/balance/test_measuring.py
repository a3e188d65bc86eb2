"""What a move gave: compared where the traffic stayed, replayed where it did not."""

from dataclasses import replace

import pytest

from cluster.balance.judging.loads import TimedLoad, merged, too_few, within
from cluster.balance.judging.measuring import measured_gain, moved_share
from cluster.balance.prediction import predicted_gain
from experts.costs import equal_costs
from experts.placement import even_placement, placement_of
from tests.support.routed_traffic import demand, report, zipf

LAYERS, EXPERTS, SHARDS = 2, 8, 2
COSTS = equal_costs(SHARDS)
OLD = even_placement(EXPERTS, SHARDS)
NEW = placement_of([range(0, EXPERTS, 2), range(1, EXPERTS, 2)])
HEAT = zipf(LAYERS, EXPERTS, 1.0)


def reports(seed: int, slowest_us: float = 0.0, weights: int | None = None) -> list[TimedLoad]:
    heat = HEAT if weights is None else zipf(LAYERS, EXPERTS, 1.0, weights)
    load = report(demand(heat, steps=64, tokens=16, seed=seed))
    return [TimedLoad(0.0, replace(load, calls=100 if slowest_us else 0, slowest_us=100 * slowest_us))]


def test_with_the_same_traffic_calls_are_compared() -> None:
    assert measured_gain(reports(1, 200.0), reports(2, 150.0), OLD, NEW, COSTS) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (reports(1, 200.0, weights=7), reports(2, 150.0)),
        (reports(1), reports(2, 150.0)),
        (reports(1, 200.0), reports(2)),
        ([], reports(2, 150.0)),
    ],
    ids=["other traffic", "nothing reported before", "nothing behind", "no window before"],
)
def test_else_the_new_traffic_is_replayed_on_the_old_placement(before: list[TimedLoad], after: list[TimedLoad]) -> None:
    now = merged(after)
    assert now is not None
    assert measured_gain(before, after, OLD, NEW, COSTS) == predicted_gain(now, OLD, NEW, COSTS)


def test_too_little_says_nothing() -> None:
    few = [TimedLoad(0.0, report(demand(HEAT, steps=1, tokens=4)))]
    assert measured_gain(reports(1), few, OLD, NEW, COSTS) is None
    assert measured_gain(reports(1), [], OLD, NEW, COSTS) is None


def test_the_share_of_tokens_that_moved() -> None:
    one, other = demand(HEAT, steps=64), demand(HEAT[:, ::-1].copy(), steps=64)
    assert moved_share(one, one) == 0
    assert 0.1 < moved_share(one, other) <= 1


def test_reports_of_all_routers_are_one_demand() -> None:
    loads = [
        TimedLoad(at, report(demand(HEAT, seconds=5.0, seed=int(at)), router=router, epoch=epoch))
        for at, router, epoch in ((5.0, "a", 1), (6.0, "b", 1), (10.0, "a", 2), (11.0, "b", 1))
    ]
    together = merged(loads)
    assert together is not None
    assert (together.seconds, len(together.batches)) == (10.0, 32)
    assert (together.tokens_LE == sum(one.load.demand.tokens_LE for one in loads)).all()
    assert within(loads, 5.0, 11.0, epoch=1) == [loads[1], loads[3]]
    assert merged([]) is None


def test_what_is_enough_counts_tokens_for_each_expert() -> None:
    assert too_few(None) == "nothing was routed"
    enough = demand(HEAT, steps=4, tokens=16)  # 4 of 8 experts for each of 64 tokens
    assert too_few(enough) == ""
    assert "256 say enough" in too_few(demand(HEAT, steps=3, tokens=16))
    assert too_few(demand(HEAT, steps=3, tokens=16), 0.75) == ""
    assert too_few(replace(enough, batches=())) == "no whole step was sampled"
