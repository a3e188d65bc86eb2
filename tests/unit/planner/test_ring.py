"""The order of the shards: copies of a run are on neighbours, which should be on different nodes."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.planner.ring import ring_over_nodes
from experts.placement import even_placement

MOST = 40
node_lists = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=MOST)


def nodes_of_runs(nodes: Sequence[str], ring: Sequence[int], copies: int) -> list[int]:
    """How many nodes each run of experts is on, by the placement that the ring makes."""
    holders = even_placement(len(nodes), len(nodes), copies, ring).everywhere.holders
    return [len({nodes[shard] for shard in shards}) for shards in holders]


@given(node_lists, st.integers(1, MOST))
def test_copies_are_on_different_nodes_wherever_that_is_possible(nodes: list[str], copies: int) -> None:
    copies = min(copies, len(nodes))
    ring = ring_over_nodes(nodes, copies)
    assert sorted(ring) == list(range(len(nodes)))
    # A node with more than one of `copies` neighbours' shares cannot stay out of its own way.
    possible = min(copies, len(nodes) // max(Counter(nodes).values()))
    assert min(nodes_of_runs(nodes, ring, copies)) >= possible


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("nodes", ["aab", "aaab", "aabb", "aaabb", "aaabc", "aaaab", "aaaabb", "aaaabc", "abcdd"])
def test_no_ring_leaves_fewer_runs_on_one_node(nodes: str, copies: int) -> None:
    """Against all orders there are."""

    def alone(ring: Sequence[int]) -> int:
        return nodes_of_runs(nodes, ring, copies).count(1)

    assert alone(ring_over_nodes(nodes, copies)) == min(map(alone, permutations(range(len(nodes)))))


@given(st.integers(1, MOST), st.integers(1, MOST))
def test_one_node_keeps_the_order(shards: int, copies: int) -> None:
    assert ring_over_nodes(["a"] * shards, min(shards, copies)) == tuple(range(shards))


@given(node_lists, st.integers(1, MOST))
def test_the_ring_depends_on_who_is_with_whom_alone(nodes: list[str], copies: int) -> None:
    """Not on names, which Ray draws at random."""
    copies = min(copies, len(nodes))
    names = {node: f"{9 - number}{node}" for number, node in enumerate(dict.fromkeys(nodes))}
    assert ring_over_nodes(nodes, copies) == ring_over_nodes([names[node] for node in nodes], copies)


def test_four_nodes_of_eight() -> None:
    """28 shards on four nodes, as a preset has them."""
    nodes = [f"n{shard // 7}" for shard in range(28)]
    ring = ring_over_nodes(nodes, 2)
    assert all(nodes[one] != nodes[other] for one, other in pairwise([*ring, ring[0]]))
    assert min(nodes_of_runs(nodes, ring_over_nodes(nodes, 4), 4)) == 4
