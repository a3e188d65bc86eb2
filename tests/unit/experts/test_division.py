"""A layer's pairs in parts: whoever is asked for them, each goes once to a shard that holds its expert."""

from random import Random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.costs import ShardCosts, equal_costs
from experts.division.base import CallRows, Division
from experts.division.blocks import BlockDivision
from experts.division.chooser import Chooser
from experts.division.pairs import PairDivision
from experts.placement import LayerPlacement, Placement
from experts.pool import ExpertPool
from experts.routing import LOST, Routing
from experts.shard.local import LocalTransport
from kernels.native.library import available
from tests.support.batches import Batch, batches
from tests.support.simulated import PureShard

CPU, HIDDEN = torch.device("cpu"), 4


class Layer(NamedTuple):
    """A routing of a batch."""

    batch: Batch
    routing: Routing


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Some tokens, each with any experts; some are lost."""
    batch, seed = draw(batches()), draw(st.integers(0, 2**32 - 1))
    tokens, width = draw(st.sampled_from([0, 1, 2, 9, 60])), draw(st.integers(1, 4))
    random = np.random.default_rng(seed)
    hot = draw(st.sampled_from([1, batch.layer.experts]))
    ids_TK = random.integers(0, hot, (tokens, width))
    ids_TK[random.random(tokens) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = LOST
    return Layer(batch, Routing(ids_TK, random.random((tokens, width), np.float32)))


def divisions(layer: Layer) -> list[Division]:
    """By either form, and by either way of choosing."""
    batch, routing = layer
    ways = [True, False] if available() else [False]
    found: list[Division] = [Chooser(batch.costs, way).divide(routing, batch.layer, batch.ranks_S) for way in ways]
    return [*found, BlockDivision(routing, batch.layer, batch.costs, batch.ranks_S)]


def pairs_of(rows: CallRows) -> list[tuple[int, int, float]]:
    """Token, expert and weight of each assignment."""
    tokens = rows.tokens_R[rows.rows_A].tolist()
    return list(zip(tokens, rows.experts_A.tolist(), rows.weights_A.tolist(), strict=True))


@given(layers())
@settings(max_examples=200, deadline=None)
def test_each_pair_is_asked_once_of_a_holder(layer: Layer) -> None:
    routing, holders = layer.routing, layer.batch.layer.holders
    wanted = [
        (token, int(expert), float(routing.weights_TK[token, place]))
        for (token, place), expert in np.ndenumerate(routing.expert_ids_TK)
        if expert != LOST
    ]
    for division in divisions(layer):
        asked = [division.call_rows(parts) for _, parts in division.runs]
        assert sorted(pair for rows in asked for pair in pairs_of(rows)) == sorted(wanted)
        assert len({shard for shard, _ in division.runs}) == len(division.runs), "one call for each shard"
        assert sorted(part for _, parts in division.runs for part in parts) == list(range(len(division.chosen)))
        for (shard, parts), rows in zip(division.runs, asked, strict=True):
            assert all(shard in holders[expert] for expert in rows.experts_A)
            assert all(division.chosen[part] == shard for part in parts)
            assert not rows.whole or rows.tokens_R.tolist() == list(range(len(routing.expert_ids_TK)))
            sizes = (len(rows.tokens_R), len(rows.rows_A), len(set(rows.experts_A.tolist())))
            assert division.sizes(parts) == sizes


@given(layers(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_any_parts_can_be_asked_anew(layer: Layer, random: Random) -> None:
    """Their answers lie where the division says, whichever parts go together."""
    ids_N = layer.routing.expert_ids_TK.reshape(-1)
    for division in divisions(layer):
        numbers = sorted(random.sample(range(len(division.chosen)), random.randint(0, len(division.chosen))))
        if not numbers:
            continue
        rows, places = division.call_rows(numbers), [division.pairs(part) for part in numbers]
        experts = ids_N[np.concatenate(places)].tolist()
        if isinstance(division, PairDivision):
            assert rows.experts_A.tolist() == experts
            assert sum(division.ends[part + 1] - division.ends[part] for part in numbers) == len(experts)
        else:
            assert sorted(rows.experts_A.tolist()) == sorted(experts)
        assert division.sizes(numbers).assignments == len(experts)
        assert division.sizes(numbers).experts == len(set(experts))


@pytest.mark.skipif(not available(), reason="the native kernels were not built")
@given(layers())
@settings(max_examples=300, deadline=None)
def test_the_native_library_divides_the_same(layer: Layer) -> None:
    fast, plain, _ = divisions(layer)
    assert (fast.chosen, fast.holders, fast.ends) == (plain.chosen, plain.holders, plain.ends)
    assert fast.runs == plain.runs
    assert fast.places().tolist() == plain.places().tolist()
    for _, parts in fast.runs:
        for one, other in zip(fast.call_rows(parts), plain.call_rows(parts), strict=True):
            assert np.array_equal(one, other)


@given(layers(), st.data())
@settings(max_examples=100, deadline=None)
def test_the_choice_changes_no_bit(layer: Layer, data: st.DataObject) -> None:
    """Whoever is slow or in doubt, in both forms."""
    placement = Placement(layer.batch.shards, layer.batch.layer)
    x_TD = torch.randn(len(layer.routing.expert_ids_TK), HIDDEN, generator=torch.Generator().manual_seed(1))
    for exact in (True, False):
        found = []
        for costs in (layer.batch.costs, equal_costs(layer.batch.shards)):
            pool = ExpertPool(Doubtful(data.draw(st.permutations(range(placement.shards)))), placement, 1.0, exact)
            pool.costs = costs
            found.append(pool.combine(pool.dispatch(5, x_TD, layer.routing), CPU).y_TD)
        assert torch.equal(*found)


class Doubtful(LocalTransport):
    """Shards of any ranks."""

    def __init__(self, ranks: list[int]) -> None:
        super().__init__(dict.fromkeys(range(len(ranks)), PureShard()))  # type: ignore[arg-type]
        self._ranks = ranks

    def rank(self, shard: int) -> int:
        """As it was told."""
        return self._ranks[shard]


def test_who_answered_is_told_for_each_pair() -> None:
    """A hot expert's pairs are split over its holders, first the tokens of the first one."""
    layer = LayerPlacement(((0, 1), (1,)))
    ids_TK = np.array([[0]] * 60 + [[LOST]] + [[1]] * 4)
    pool = ExpertPool(Doubtful([0, 0]), Placement(2, layer), 1.0, exact=True)
    routing = Routing(ids_TK, np.ones(ids_TK.shape, np.float32))
    combined = pool.combine(pool.dispatch(5, torch.ones(65, HIDDEN), routing), CPU)
    shards = combined.shards_TK()[:, 0].tolist()
    first = shards[:60].count(0)
    assert 30 < first < 60
    assert shards == [0] * first + [1] * (60 - first) + [LOST] + [1] * 4


def test_a_call_says_how_many_experts_it_needs() -> None:
    layer = LayerPlacement(((0,), (0, 1), (1,)))
    pool = ExpertPool(Doubtful([0, 1]), Placement(2, layer), 1.0, exact=True)
    routing = Routing(np.array([[0, 1], [1, 2], [1, 0]]), np.ones((3, 2), np.float32))
    trip = pool.combine(pool.dispatch(5, torch.ones(3, HIDDEN), routing), CPU).trip
    found = [(call.shard, call.rows, call.assignments, call.experts) for call in trip.calls]
    assert found == [(0, 3, 5, 2), (1, 1, 1, 1)]


def test_costs_follow_a_placement_of_more_shards() -> None:
    pool = ExpertPool(Doubtful([0, 0, 0]), Placement(2, LayerPlacement(((0, 1),) * 9)), 1.0, exact=True)
    pool.costs = ShardCosts(*(equal_costs(2).expert_us_S * times for times in (1, 2, 3)))
    pool.placement = Placement(3, LayerPlacement(((0, 1, 2),) * 9), epoch=1)
    routing = Routing(np.arange(9)[None], np.ones((1, 9), np.float32))
    combined = pool.combine(pool.dispatch(5, torch.ones(1, HIDDEN), routing), CPU)
    assert np.bincount(combined.shards_TK()[0]).tolist() == [3, 3, 3]
    assert [us_S.tolist() for us_S in (pool.costs.call_us_S, pool.costs.pair_us_S)] == [[20.0] * 3, [60.0] * 3]
