"""What shards cost is learnt from calls, whatever else happens to these."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.costs import ShardCosts, equal_costs
from experts.timing.cost_fit import LEAST_CALLS, CostFit
from experts.timing.phase import PHASES, Phase
from experts.timing.phases import CallPhases, LayerTrip
from experts.timing.trips import TripCalls

TRUE = ShardCosts(np.array([40.0, 80.0]), np.array([25.0, 60.0]), np.array([0.5, 3.0]))


def call(shard: int, experts: int, pairs: int, took_us: float, shared_us: float = 0.0) -> CallPhases:
    phases = [int(1000 * took_us) if phase is Phase.COMPUTE else 0 for phase in PHASES]
    return CallPhases(shard, tuple(phases), pairs, pairs, 0, 0, 0, int(1000 * shared_us), experts)


def calls_of(calls: Sequence[CallPhases]) -> TripCalls:
    return TripCalls([LayerTrip.of(0, calls, pack_ns=0, exposed_ns=0, reduce_ns=0, waiting_ns=0)])


def sizes(random: np.random.Generator, prompts: bool) -> tuple[int, int]:
    """Experts and pairs of a call: few of each, or as in a prompt."""
    experts = int(random.integers(1, 9))
    return experts, experts * int(random.integers(1, 200 if prompts else 3))


def true_us(shard: int, experts: int, pairs: int) -> float:
    both = TRUE.of(np.full(2, experts), np.full(2, pairs))
    return float(both[shard])


def learnt(count: int, prompts: bool, noise: float = 0.0, odd: float = 0.0, shared: bool = False) -> CostFit:
    """From calls of both shards; an odd one takes a hundred times as long."""
    random, fit = np.random.default_rng(0), CostFit(2)
    for _ in range(count // 64):
        made = []
        for _ in range(64):
            shard, (experts, pairs) = int(random.integers(2)), sizes(random, prompts)
            took = true_us(shard, experts, pairs) * (1 + noise * random.standard_normal())
            took *= 100 if random.random() < odd else 1
            made.append(call(shard, experts, pairs, took))
            if shared:  # most of it another router's
                made.append(call(shard, experts, pairs, 10 * took, 9.5 * took))
        fit.add(calls_of(made))
    return fit


@pytest.mark.parametrize("shared", [False, True])
def test_the_costs_of_unlike_shards_are_found(shared: bool) -> None:
    costs = learnt(4096, prompts=True, noise=0.05, shared=shared).costs
    for found, true in ((costs.expert_us_S, TRUE.expert_us_S), (costs.pair_us_S, TRUE.pair_us_S)):
        np.testing.assert_allclose(found, true, rtol=0.1)
    np.testing.assert_allclose(costs.call_us_S, TRUE.call_us_S, rtol=0.5)


def test_calls_that_are_all_alike_are_predicted() -> None:
    """Decoding alone does not tell an expert's cost from a pair's, but what such calls take."""
    costs = learnt(2048, prompts=False, noise=0.05).costs
    for experts, pairs in ((1, 1), (4, 6), (8, 12)):
        found = costs.of(np.full(2, experts), np.full(2, pairs))
        np.testing.assert_allclose(found, TRUE.of(np.full(2, experts), np.full(2, pairs)), rtol=0.15)


def test_calls_that_were_held_up_change_little() -> None:
    costs = learnt(8192, prompts=True, noise=0.05, odd=0.02).costs
    np.testing.assert_allclose(costs.pair_us_S, TRUE.pair_us_S, rtol=0.3)


def test_a_shard_of_which_little_is_known_is_taken_to_be_as_the_others() -> None:
    fit = CostFit(3)
    fit.add(calls_of([call(0, 4, 8 + number, 500.0) for number in range(4 * LEAST_CALLS)] + [call(1, 1, 1, 9.0)]))
    assert len(set(fit.costs.expert_us_S.tolist())) == 1
    np.testing.assert_allclose(fit.costs.of(np.full(3, 4), np.full(3, 60)), 500.0, rtol=0.2)


def test_without_calls_all_shards_cost_the_same() -> None:
    fit = CostFit(2)
    assert not fit.add(calls_of([call(0, 1, 1, 50.0, 20.0), call(1, 0, 0, 0.0)]))
    assert fit.costs.pair_us_S.tolist() == equal_costs(2).pair_us_S.tolist()


CALLS = st.tuples(st.integers(0, 2), st.integers(0, 300), st.integers(0, 10**6), st.floats(0, 1e9), st.floats(0, 1e9))


@given(st.lists(st.lists(CALLS, min_size=1, max_size=150), min_size=1, max_size=6), st.booleans())
@settings(max_examples=150, deadline=None)
def test_costs_are_always_positive_numbers_and_follow_from_the_calls(
    batches: list[list[tuple[int, int, int, float, float]]], again: bool
) -> None:
    fits = CostFit(3), CostFit(3)
    for batch in batches * (8 if again else 1):
        assert len({fit.add(calls_of([call(*one) for one in batch])) for fit in fits}) == 1
    first, second = (np.stack([fit.costs.call_us_S, fit.costs.expert_us_S, fit.costs.pair_us_S]) for fit in fits)
    assert np.isfinite(first).all()
    assert (first > 0).all()
    assert np.array_equal(first, second)
