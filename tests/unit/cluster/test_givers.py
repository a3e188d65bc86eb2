"""Whom a shard asks for an expert: by the map and the entries of the moment."""

import pytest

from cluster.balance.config import CopyFrom
from cluster.processes.maps.givers import Givers
from experts.placement import LayerPlacement, Placement
from experts.transport.address import Endpoint

HOLDERS = LayerPlacement(((0,), (3, 1), (2, 3), (3,)))
NODES = {0: "here", 1: "here", 2: "here", 3: "there"}


def endpoint(shard: int) -> Endpoint:
    return Endpoint(
        role="shard",
        index=shard,
        replica=f"s{shard}",
        incarnation=shard,
        node=NODES[shard],
        host="127.0.0.1",
        port=1,
        unix_name="",
        pid=1,
    )


def givers(copy_from: CopyFrom, remade: bool) -> Givers:
    """For shard 0."""
    placement = Placement(4, LayerPlacement(((0,),) * 4), {2: HOLDERS})
    return Givers(0, "here", copy_from, remade, lambda: placement, lambda: map(endpoint, NODES))


@pytest.mark.parametrize(
    ("copy_from", "remade", "asked"),
    [
        ("checkpoint", True, [[], [], [], []]),
        ("peer", False, [[], [1, 3], [2, 3], [3]]),
        ("auto", True, [[], [1, 3], [2, 3], [3]]),
        ("auto", False, [[], [], [], [3]]),
    ],
)
def test_who_is_asked(copy_from: CopyFrom, remade: bool, asked: list[list[int]]) -> None:
    """Nobody asks themselves; the own node comes first, and is left alone where its page cache has the file."""
    found = givers(copy_from, remade)
    assert [[one.index for one in found(2, expert)] for expert in range(4)] == asked


def test_map_and_entries_are_those_of_the_moment() -> None:
    placements, there = [Placement(4, HOLDERS)], [endpoint(2)]
    found = Givers(0, "here", "peer", False, lambda: placements[-1], lambda: there)
    assert [one.index for one in found(0, 2)] == [2]
    there.append(endpoint(1))
    placements.append(Placement(4, LayerPlacement(((1,),) * 4)))
    assert [one.index for one in found(0, 2)] == [1]
    there.clear()
    assert found(0, 2) == []
