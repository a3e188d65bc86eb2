"""What shards may hold, which must not be given more, and which have come or are to go."""

import numpy as np
import pytest

from cluster.balance.judging.loads import TimedLoad
from cluster.balance.judging.stock import ModelFacts, Stock, costs_of, suspects_of
from experts.costs import ShardCosts, equal_costs
from experts.demand import RoutedLoad
from experts.placement import even_placement
from tests.support.routed_traffic import demand, report, zipf
from tests.unit.balance.simulated_cluster import Shard

FACTS = ModelFacts(layers=(0, 1, 3), experts=8, expert_bytes=100)
EVEN = even_placement(8, 2, room=4)


def stock(wanted: int = 2, extra: float = 0.0, copies: int = 1, room: dict[int, int] | None = None) -> Stock:
    entries = {shard: Shard(shard, node=f"n{shard}") for shard in range(2)}
    return Stock(entries, wanted, copies, extra, room)


@pytest.mark.parametrize(
    ("one", "slots"),
    [
        (stock(), [12, 12, 0, 0]),
        (stock(extra=1.0), [15, 15, 0, 0]),
        (stock(extra=0.5), [13, 13, 0, 0]),
        (stock(extra=100.0), [24, 24, 0, 0]),
        (stock(wanted=4), [12, 12, 6, 6]),
        (stock(wanted=1), [24, 0, 0, 0]),
        (stock(extra=2.0, room={0: 1400, 1: 100}), [14, 12, 0, 0]),
        (stock(wanted=3, copies=2), [18, 18, 18, 0]),
    ],
    ids=["own", "one extra", "half extra", "no more than all", "more wanted", "fewer", "memory", "copies"],
)
def test_slots(one: Stock, slots: list[int]) -> None:
    supply = one.supply(EVEN, FACTS, None)
    assert supply.slots_S.tolist() == slots
    assert supply.nodes_S == ("n0", "n1", "", "")
    assert (supply.copies, supply.expert_bytes) == (one.copies, 100)


def test_costs_of_another_number_of_shards_are_not_used() -> None:
    assert (stock().supply(EVEN, FACTS, equal_costs(2, 5.0)).costs.call_us_S == equal_costs(4).call_us_S).all()
    assert (stock().supply(EVEN, FACTS, equal_costs(4, 5.0)).costs.call_us_S == 5.0).all()


def test_who_is_away_and_who_must_prove_itself() -> None:
    one = stock(wanted=3)
    assert one.absent(EVEN) == {}
    assert one.unfit(EVEN, 1e6, [1]) == {1: "suspect", 2: "not there"}
    entries = {0: Shard(0, state="draining"), 1: Shard(1, started_ns=int(1e15) - 10**9)}
    one = Stock(entries, 2)
    assert one.absent(EVEN) == {0: "draining"}
    assert one.unfit(EVEN, 1e6) == {0: "draining", 1: "younger than 20 s"}


def test_who_comes_and_who_goes() -> None:
    assert stock().change(EVEN) == ""
    assert stock(wanted=1).change(EVEN) == "shards 1 are to go"
    assert stock(wanted=3).change(EVEN) == ""
    come = Stock({shard: Shard(shard) for shard in range(3)}, 3)
    assert come.change(EVEN) == "shards 2 have come"
    assert come.unfit(EVEN, 1.0) == {0: "younger than 20 s", 1: "younger than 20 s"}


def test_costs_and_suspects_are_each_routers_latest() -> None:
    def load(router: str, us: float | None, suspect: tuple[int, ...] = ()) -> TimedLoad:
        said = report(demand(zipf(1, 4, 1.0)), router)
        costs = None if us is None else equal_costs(2, us)
        return TimedLoad(0.0, RoutedLoad(said.router, 1, said.demand, costs=costs, suspect=suspect))

    costs = costs_of([load("a", 1.0), load("a", 10.0), load("b", 20.0), load("c", None)])
    assert isinstance(costs, ShardCosts)
    assert np.allclose(costs.call_us_S, 15.0)
    assert costs_of([load("a", None)]) is None
    assert suspects_of([load("a", None, (0,)), load("a", None, (1,)), load("b", None, (3,))]) == {1, 3}
