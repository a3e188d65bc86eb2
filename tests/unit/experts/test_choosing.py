"""Which holder of each expert is asked: any placement, any batch, any costs."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.costs import ShardCosts, equal_costs
from experts.division.chooser import Chooser
from experts.division.choosing import NOBODY, Choice, Split, choose, choose_evenly, choose_in_turns
from experts.placement import LayerPlacement
from experts.routing import LOST
from kernels.native.library import available
from tests.support.batches import Batch, batches


@given(batches())
@settings(max_examples=300, deadline=None)
def test_each_pair_is_asked_once_of_a_holder_in_the_best_reach(batch: Batch) -> None:
    choice = choose(batch.pairs_E, batch.layer, batch.costs, batch.ranks_S)
    split = {expert: [one for one in choice.splits if one.expert == expert] for expert, *_ in choice.splits}
    for expert, pairs in enumerate(batch.pairs_E.tolist()):
        shards = batch.layer.holders[expert]
        best = [shard for shard in shards if batch.ranks_S[shard] == min(batch.ranks_S[other] for other in shards)]
        assert choice.shard_of_E[expert] in (best if pairs else [NOBODY])
        if expert in split:
            parts = split[expert]
            assert [one.shard for one in parts] == [shard for shard in best if shard in {one.shard for one in parts}]
            assert sum(one.pairs for one in parts) == pairs
            assert len(parts) > 1
            assert max(parts, key=lambda one: one.pairs).shard == choice.shard_of_E[expert]
    assert list(choice.splits) == sorted(choice.splits, key=lambda one: one.expert)


@given(batches())
@settings(max_examples=300, deadline=None)
def test_it_is_never_slower_than_splitting_evenly_or_taking_turns(batch: Batch) -> None:
    asked = (batch.pairs_E, batch.layer, batch.costs, batch.ranks_S)
    slowest = [one(*asked).slowest_us(batch.pairs_E, batch.costs) for one in (choose, choose_evenly, choose_in_turns)]
    assert slowest[0] <= min(slowest)


@given(batches())
@settings(max_examples=100, deadline=None)
def test_the_arguments_decide(batch: Batch) -> None:
    first, second = (choose(batch.pairs_E, batch.layer, batch.costs, batch.ranks_S) for _ in range(2))
    assert first.shard_of_E.tolist() == second.shard_of_E.tolist()
    assert first.splits == second.splits


@given(batches())
@settings(max_examples=100, deadline=None)
def test_loads_are_those_of_the_parts(batch: Batch) -> None:
    choice = choose(batch.pairs_E, batch.layer, batch.costs, batch.ranks_S)
    experts_S, pairs_S = choice.loads(batch.pairs_E, batch.shards)
    assert pairs_S.sum() == batch.pairs_E.sum()
    split = {one.expert for one in choice.splits}
    assert experts_S.sum() == (batch.pairs_E > 0).sum() - len(split) + len(choice.splits)


def chosen(pairs: list[int], holders: list[tuple[int, ...]], costs: ShardCosts) -> Choice:
    return choose(np.array(pairs), LayerPlacement(tuple(holders)), costs)


def uneven_costs() -> ShardCosts:
    """Shard 1 takes three times as long as shard 0."""
    fast = equal_costs(2)
    return ShardCosts(fast.call_us_S, fast.expert_us_S * [1, 3], fast.pair_us_S * [1, 3])


def test_decoding_spreads_experts_and_splits_none() -> None:
    """Four experts that two shards hold, a few tokens each: two experts for each shard."""
    choice = chosen([2, 2, 2, 2], [(0, 1)] * 4, equal_costs(2))
    assert sorted(choice.shard_of_E.tolist()) == [0, 0, 1, 1]
    assert choice.splits == ()


def test_a_prompts_hot_expert_is_split_where_that_saves_more_than_reading_it_twice_costs() -> None:
    assert chosen([100], [(0, 1)], equal_costs(2)).splits == (Split(0, 0, 50), Split(0, 1, 50))
    assert chosen([8, 8], [(0, 1)] * 2, equal_costs(2)).splits == ()


def test_experts_make_room_for_each_other() -> None:
    """Shard 0 has more than it can give away directly: shard 1 passes on one of its own."""
    holders = [(0,), (0,), (0, 1), (1, 2), (1,)]
    choice = chosen([4, 4, 5, 6, 4], holders, equal_costs(3))
    assert choice.shard_of_E.tolist() == [0, 0, 1, 2, 1]


def test_a_slower_shard_gets_less() -> None:
    choice = chosen([1] * 8, [(0, 1)] * 8, uneven_costs())
    assert np.bincount(choice.shard_of_E).tolist() == [6, 2]


@pytest.mark.parametrize("pairs", [[0, 0, 0], [3, 0, 1]])
def test_experts_without_pairs_are_nobodys(pairs: list[int]) -> None:
    choice = chosen(pairs, [(0,), (0, 1), (1,)], equal_costs(2))
    assert choice.shard_of_E.tolist() == [0 if pairs[0] else NOBODY, NOBODY, 1 if pairs[2] else NOBODY]


@pytest.mark.skipif(not available(), reason="the native kernels were not built")
@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=500, deadline=None)
def test_the_native_library_chooses_the_same(batch: Batch, random: Random) -> None:
    ids = [LOST] * random.randrange(3) + np.arange(batch.layer.experts).repeat(batch.pairs_E).tolist()
    random.shuffle(ids)
    found = [
        Chooser(batch.costs, native).choose(np.array(ids, np.int64)[:, None], batch.layer, batch.ranks_S)
        for native in (True, False)
    ]
    if found[0] is None or found[1] is None:
        assert found == [None, None]
        assert not batch.layer.shared
        return
    assert found[0].shard_of_E.tolist() == found[1].shard_of_E.tolist()
    assert found[0].splits == found[1].splits


@pytest.mark.parametrize("native", [True, False])
def test_new_costs_count_at_once(native: bool) -> None:
    if native and not available():
        pytest.skip("the native kernels were not built")
    layer, ids_TK = LayerPlacement(((0, 1),) * 8), np.arange(8)[None]
    chooser = Chooser(equal_costs(2), native)
    first = chooser.choose(ids_TK, layer, [0, 0])
    chooser.costs = uneven_costs()
    second = chooser.choose(ids_TK, layer, [0, 0])
    third = chooser.choose(ids_TK, layer, [2, 0])
    assert first is not None
    assert second is not None
    assert third is not None
    counts = [np.bincount(one.shard_of_E, minlength=2).tolist() for one in (first, second, third)]
    assert counts == [[4, 4], [6, 2], [0, 8]]
