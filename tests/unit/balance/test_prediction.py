"""What is predicted of a placement: by replaying the steps that were sampled."""

import numpy as np
import pytest

from cluster.balance.moves import moves
from cluster.balance.planning import plan_placement
from cluster.balance.prediction import Replayer, predicted_gain, replay
from experts.costs import ShardCosts, equal_costs
from experts.demand import Demand, RoutedBatch
from experts.division.choosing import choose
from experts.placement import LayerPlacement, Placement, even_placement
from tests.benchmarks.balance.recordings import DOMAINS, recorded
from tests.unit.balance.supplies import demand_of_counts, supply_of

COSTS = ShardCosts(np.array([10.0, 10.0]), np.array([5.0, 5.0]), np.array([1.0, 2.0]))
APART = Placement(2, LayerPlacement(((0,), (0,), (1,), (1,))))


def one_step(*ids_TK: list[int]) -> Demand:
    """A step of one layer."""
    ids_LTK = np.array([ids_TK], np.int16)
    return Demand(
        (4,), np.bincount(ids_LTK.ravel()[ids_LTK.ravel() >= 0], minlength=4)[None], 1.0, (RoutedBatch(ids_LTK),)
    )


def test_a_step_takes_what_the_costs_say() -> None:
    """Shard 0: experts 0 and 1, three pairs; shard 1: expert 2, one pair."""
    found = replay(one_step([0, 1], [0, 2]), APART, COSTS)
    assert found.slowest_us == 10 + 2 * 5 + 3 * 1
    assert found.mean_us == (23 + 10 + 5 + 2) / 2
    assert found.imbalance == 1.5
    assert found.calls == 1


def test_lost_experts_cost_nothing() -> None:
    assert replay(one_step([0, -1], [-1, -1]), APART, COSTS).slowest_us == 10 + 5 + 1


def test_without_a_sample_counts_are_one_step() -> None:
    assert replay(demand_of_counts(np.array([[3, 0, 0, 4]])), APART, COSTS).slowest_us == 10 + 5 + 4 * 2


def test_where_nothing_was_routed_nothing_takes_time() -> None:
    found = replay(demand_of_counts(np.zeros((2, 4))), APART, COSTS)
    assert (found.slowest_us, found.mean_us, found.imbalance, found.calls) == (0, 0, 1, 0)
    assert predicted_gain(demand_of_counts(np.zeros((2, 4))), APART, APART, COSTS) == 0


def test_copies_are_chosen_as_routers_choose_them() -> None:
    placement, costs = even_placement(16, 4, 2), equal_costs(4)
    for domain in DOMAINS:
        demand = recorded(domain, slice(8))
        layer = Replayer(demand, costs).layer(0, placement.everywhere)
        for batch, slowest_us in zip(demand.batches, layer.slowest_us_N, strict=True):
            pairs_E = np.bincount(batch.expert_ids_LTK[0].ravel(), minlength=16)
            assert choose(pairs_E, placement.everywhere, costs).slowest_us(pairs_E, costs) == slowest_us


def test_choosing_copies_is_no_slower_than_sharing_evenly_says() -> None:
    demand, placement = recorded("french"), even_placement(16, 4, 2)
    assert (
        replay(demand, placement, equal_costs(4)).slowest_us
        <= replay(demand, placement, equal_costs(4), even=True).slowest_us
    )


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("copies", [1, 2])
def test_the_gain_that_is_predicted_comes_in_the_steps_after(domain: str, copies: int) -> None:
    """Planned by every second step of decoding; the others gain what was promised, within a twentieth of the time."""
    before, after = recorded(domain, slice(4, None, 2)), recorded(domain, slice(5, None, 2))
    supply, current = supply_of(4, 4 * (4 * copies + 2), copies), even_placement(16, 4, copies)
    planned = plan_placement(before, supply, current)
    promised = predicted_gain(before, current, planned, supply.costs)
    assert predicted_gain(after, current, planned, supply.costs) == pytest.approx(promised, abs=0.05)


def test_moves_are_what_shards_load_and_drop() -> None:
    old = Placement(3, LayerPlacement(((0,), (1,))))
    new = Placement(3, old.everywhere, {5: LayerPlacement(((2, 0), (0,)))})
    found = moves(old, new, (3, 5), expert_bytes=100)
    assert found.added_LS.tolist() == [[0, 0, 0], [1, 0, 1]]
    assert found.dropped_LS.tolist() == [[0, 0, 0], [0, 1, 0]]
    assert (found.added, found.dropped, found.bytes, found.bytes_S.tolist()) == (2, 1, 200, [100, 0, 100])


def test_another_home_moves_nothing() -> None:
    old, new = Placement(2, LayerPlacement(((0, 1),))), Placement(2, LayerPlacement(((1, 0),)))
    assert moves(old, new, (0,)).added == moves(old, new, (0,)).dropped == 0
