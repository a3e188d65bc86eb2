"""Batches as the choice of holders sees them: any placement, counts, costs and links."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from experts.costs import ShardCosts
from experts.placement import LayerPlacement

MICROSECONDS = st.sampled_from([0.5, 1.0, 2.0, 7.3, 20.0, 30.0, 300.0])


class Batch(NamedTuple):
    """So many pairs of each expert of a layer, [E]; the shards' costs, and the ranks of their links, [S]."""

    pairs_E: NDArray[np.int64]
    layer: LayerPlacement
    costs: ShardCosts
    ranks_S: list[int]

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self.ranks_S)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Few or many pairs, equal or different shards, links that are in doubt."""
    shards, experts = draw(st.integers(1, 7)), draw(st.integers(1, 20))
    numbers = st.lists(st.integers(0, shards - 1), min_size=1, max_size=4, unique=True)
    holders = draw(st.lists(numbers.map(tuple), min_size=experts, max_size=experts))
    most = draw(st.sampled_from([1, 8, 300]))
    pairs = draw(st.lists(st.integers(0, most), min_size=experts, max_size=experts))
    return Batch(np.array(pairs), LayerPlacement(tuple(holders)), draw(costs_of(shards)), draw(ranks_of(shards)))


def costs_of(shards: int) -> st.SearchStrategy[ShardCosts]:
    """The same costs for all shards, or each its own."""
    three = st.lists(MICROSECONDS, min_size=3, max_size=3)
    alike = three.map(lambda one: [one] * shards)
    rows = st.one_of(alike, st.lists(three, min_size=shards, max_size=shards))
    return rows.map(lambda rows: ShardCosts(*np.array(rows).T.copy()))


def ranks_of(shards: int) -> st.SearchStrategy[list[int]]:
    """All links alike, or any."""
    return st.one_of(st.just([0] * shards), st.lists(st.integers(0, 2), min_size=shards, max_size=shards))
