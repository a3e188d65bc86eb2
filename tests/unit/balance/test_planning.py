"""What a plan keeps to, whatever was routed and whatever shards there are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.balance.moves import moves
from cluster.balance.planning import plan_placement
from cluster.balance.prediction import predicted_gain, replay
from cluster.balance.supply import Supply
from experts.costs import ShardCosts, equal_costs
from experts.demand import Demand
from experts.placement import LayerPlacement, Placement, even_placement
from tests.unit.balance.supplies import demand_of_counts, demands, supplies, supply_of, used

LAYERS, EXPERTS = 3, 10
plans = settings(max_examples=25, deadline=None)
some_demand = demands(LAYERS, EXPERTS)


def check(placement: Placement, demand: Demand, supply: Supply) -> None:
    """Each expert of each layer is held by enough shards; no budget is passed, and who is to hold nothing does not."""
    usable = set(np.flatnonzero(supply.usable_S).tolist())
    assert set(placement.special) == set(demand.layers)
    assert placement.copies >= supply.copies
    assert placement.holding <= usable
    assert placement.holding == {shard for one in placement.special.values() for block in one.blocks for shard in block}
    assert (used(placement, demand.layers) <= supply.slots_S).all()


@plans
@given(some_demand, supplies(LAYERS, EXPERTS), some_demand)
def test_a_plan_keeps_to_what_there_is(demand: Demand, supply: Supply, other: Demand) -> None:
    first = plan_placement(demand, supply)
    check(first, demand, supply)
    assert plan_placement(demand, supply) == first
    second = plan_placement(other, supply, replace(first, epoch=7))
    check(second, other, supply)
    assert second.epoch == 7


@plans
@given(some_demand, supplies(LAYERS, EXPERTS), supplies(LAYERS, EXPERTS), st.sampled_from([0.0, 0.02, 0.3]))
def test_shards_come_and_go(demand: Demand, before: Supply, after: Supply, worth: float) -> None:
    current = plan_placement(demand, before)
    planned = plan_placement(demand, after, current, worth=worth)
    shards = max(len(before.slots_S), len(after.slots_S))
    assert planned is current or planned.shards == shards
    slots_S = np.pad(after.slots_S, (0, shards - len(after.slots_S)))[: planned.shards]
    check(planned, demand, replace(after, slots_S=slots_S))


def test_a_map_that_names_a_shard_that_goes_beside_its_layers_is_replaced() -> None:
    """Whoever it names is needed, and kept running."""
    demand, supply = demand_of_counts(np.full((LAYERS, EXPERTS), 9)), supply_of(3, LAYERS * EXPERTS)
    supply = replace(supply, slots_S=supply.slots_S * [1, 1, 0])
    fine = plan_placement(demand, supply)
    stale = Placement(3, even_placement(EXPERTS, 3).everywhere, fine.special, epoch=4)
    planned = plan_placement(demand, supply, stale, worth=0.3)
    assert (planned.holding, planned.special, planned.epoch) == ({0, 1}, fine.special, 4)


@plans
@given(some_demand, supplies(LAYERS, EXPERTS), some_demand, st.sampled_from([0.0, 0.02, 0.3]))
def test_a_plan_is_never_worse_than_what_it_replaces(
    before: Demand, supply: Supply, demand: Demand, worth: float
) -> None:
    """And what it loads deserves it."""
    supply = replace(supply, nodes_S=("a",) * len(supply.slots_S))
    current = plan_placement(before, supply)
    planned = plan_placement(demand, supply, current, worth=worth)
    gain, loads = predicted_gain(demand, current, planned, supply.costs), moves(current, planned, demand.layers).added
    assert planned is current or gain > 0
    assert gain >= worth * loads / demand.tokens_LE.size - 1e-9


@plans
@given(some_demand, supplies(LAYERS, EXPERTS, roomy=True))
def test_copies_are_on_different_nodes(demand: Demand, supply: Supply) -> None:
    placement = plan_placement(demand, supply)
    nodes = {supply.nodes_S[shard] for shard in np.flatnonzero(supply.usable_S)}
    for layer in demand.layers:
        for shards in placement.layer(layer).holders:
            assert len({supply.nodes_S[shard] for shard in shards}) >= min(supply.copies, len(nodes))


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("shards", [2, 4, 8])
def test_equal_load_moves_nothing(shards: int, copies: int) -> None:
    demand, current = demand_of_counts(np.full((4, 16), 100)), even_placement(16, shards, copies)
    assert plan_placement(demand, supply_of(shards, 4 * (16 * copies // shards + 2), copies), current) is current


def test_copies_that_come_to_be_on_one_node_are_parted_though_nothing_is_gained() -> None:
    demand, current = demand_of_counts(np.full((2, 16), 10)), even_placement(16, 4, 2)
    supply = replace(supply_of(4, 20, copies=2), nodes_S=("a", "a", "b", "b"))
    layer = plan_placement(demand, supply, current).layer(1)
    assert all(set(shards) & {0, 1} and set(shards) & {2, 3} for shards in layer.holders)


def test_where_memory_leaves_no_way_to_part_copies_nothing_moves_for_it() -> None:
    """Node b has room for a third of the experts."""
    demand = demand_of_counts(np.zeros((3, 10)))
    supply = replace(supply_of(6, 12, copies=2), slots_S=np.array([12, 12, 12, 12, 12, 0]), nodes_S=tuple("aaaaba"))
    current = plan_placement(demand, supply)
    assert plan_placement(demand, supply, current) is current


def test_nothing_routed_moves_nothing() -> None:
    current = even_placement(16, 4)
    assert plan_placement(demand_of_counts(np.zeros((4, 16))), supply_of(4, 20), current) is current


def test_a_plan_is_made_once() -> None:
    demand = demand_of_counts(np.random.default_rng(5).zipf(1.5, (4, 32)).clip(max=5000))
    supply = supply_of(4, 40)
    planned = plan_placement(demand, supply, even_placement(32, 4))
    assert plan_placement(demand, supply, planned) is planned


def test_little_heat_moves_little() -> None:
    """One hot expert among sixty-four: what is loaded is a few copies, not the layer."""
    tokens_LE = np.full((2, 64), 1000)
    tokens_LE[:, 7] = 20_000
    demand, current = demand_of_counts(tokens_LE), even_placement(64, 4)
    planned = plan_placement(demand, supply_of(4, 2 * 20), current)
    assert 0 < moves(current, planned, demand.layers).added <= 2 * 8
    assert replay(demand, planned, equal_costs(4)).imbalance < 1.05 < replay(demand, current, equal_costs(4)).imbalance


def test_worth_bounds_what_is_loaded() -> None:
    demand = demand_of_counts(np.random.default_rng(2).zipf(1.4, (6, 64)).clip(max=9000))
    current, supply = even_placement(64, 8), supply_of(8, 6 * 10)
    loads = [
        moves(current, plan_placement(demand, supply, current, worth=worth), demand.layers).added
        for worth in (0.0, 0.5, 100.0)
    ]
    assert loads[0] >= loads[1] > loads[2] == 0


def test_a_slow_shard_gets_less() -> None:
    """Shard 0 takes three times as long for everything."""
    slow_S = np.array([3.0, 1.0, 1.0, 1.0])
    costs = ShardCosts(30 * slow_S, 20 * slow_S, 2 * slow_S)
    demand = demand_of_counts(np.full((2, 40), 100))
    supply = Supply(np.full(4, 50), costs, ("a",) * 4)
    used_S = used(plan_placement(demand, supply), demand.layers)
    replayed = replay(demand, plan_placement(demand, supply), costs)
    assert replayed.slowest_us < 1.1 * replayed.mean_us
    assert used_S.sum() >= 80


def test_a_hot_layer_takes_more_copies_than_an_even_one() -> None:
    tokens_LE = np.full((2, 32), 100)
    tokens_LE[0, :4] = 800
    tokens_LE[1] = tokens_LE[0].sum() // 32
    demand = demand_of_counts(tokens_LE)
    placement = plan_placement(demand, supply_of(4, 18))
    copies = [sum(map(len, placement.layer(layer).holders)) for layer in demand.layers]
    assert copies == [40, 32]


def test_shards_that_are_to_go_or_hold_nothing_are_named_nowhere() -> None:
    demand, current = demand_of_counts(np.full((2, 16), 10)), even_placement(16, 4)
    planned = plan_placement(demand, replace(supply_of(4, 16), slots_S=np.array([12, 12, 0, 12])), current)
    assert planned.holding == {0, 1, 3}
    assert planned.shards == 4
    kept = plan_placement(demand, supply_of(5, 16), current)
    assert kept.everywhere is kept.layer(demand.layers[0])


def test_what_is_held_by_the_least_shards_is_repaired_though_nothing_is_gained() -> None:
    current = even_placement(16, 4)
    demand = demand_of_counts(np.full((2, 16), 10))
    assert plan_placement(demand, supply_of(4, 16, copies=2), current).copies == 2


@pytest.mark.parametrize(
    ("slots", "copies", "message"), [(3, 1, "slots_S holds 12"), (0, 1, "copies is 1"), (9, 5, "copies is 5")]
)
def test_what_cannot_be_held_is_refused(slots: int, copies: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_placement(demand_of_counts(np.ones((1, 16))), supply_of(4, slots, copies))


def test_homes_alone_are_balanced() -> None:
    """The first holders, who are asked where nobody chooses."""
    demand = demand_of_counts(np.full((1, 24), 100))
    layer = plan_placement(demand, supply_of(4, 12, copies=2)).layer(1)
    assert np.bincount(layer.home_of_E, minlength=4).tolist() == [6, 6, 6, 6]
    assert isinstance(layer, LayerPlacement)
