"""The registry's maps: one writer, epochs that never decrease, whoever is restarted."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from experts.placement import LayerPlacement, Placement, even_placement

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.maps.map_view import MapView
    from cluster.processes.maps.migration import MigrationRefusedError
    from cluster.processes.maps.placement_maps import (
        GATHER_SECONDS,
        HEAR_SECONDS,
        Layout,
        PlacementMaps,
    )
    from cluster.processes.service_registry import Announcement, ServiceRegistry

JOINED = Layout(experts=8, shards=4, copies=2, spread=True)
HERE = replace(JOINED, spread=False)
UNDECIDED = MapView(0, settled=False)


class World:
    """What the registry sees: entries and a clock that the test moves."""

    def __init__(self, nodes: str = "", restarted: bool = False) -> None:
        self.now = 100.0
        self.restarted = restarted
        self.entries = [shard(index, node) for index, node in enumerate(nodes)]
        self.maps = PlacementMaps(lambda: self.entries, lambda: self.restarted, lambda: self.now)


def shard(index: int, node: str, epoch: int = 0, role: str = "shard") -> Announcement:
    return Announcement(role, index, f"{role}{index}", node, 1, "loading", epoch=epoch)


def got(maps: PlacementMaps, layout: Layout) -> Placement:
    view = maps.view(layout)
    assert view.current is not None
    assert view.epoch == view.current.epoch
    return view.current


def ring_of(placement: Placement) -> list[int]:
    return list(dict.fromkeys(shards[0] for shards in placement.everywhere.holders))


@pytest.mark.parametrize("layout", [HERE, replace(JOINED, copies=1)])
def test_where_order_does_not_matter_nobody_is_waited_for(layout: Layout) -> None:
    placement = got(World().maps, layout)
    assert placement == replace(even_placement(8, 4, layout.copies), epoch=1)
    assert placement.copies == layout.copies


def test_it_is_decided_once_all_shards_have_said_where_they_are() -> None:
    world = World("aab")
    assert world.maps.view(JOINED) == UNDECIDED
    world.entries.append(shard(3, "b"))
    placement = got(world.maps, JOINED)
    assert placement.epoch == 1
    nodes = "aabb"
    assert all(len({nodes[one] for one in shards}) == 2 for shards in placement.everywhere.holders)


def test_of_two_entries_of_a_shard_the_youngest_counts() -> None:
    world = World("aaab")
    world.entries.append(shard(2, "b"))
    nodes = "aabb"
    placement = got(world.maps, JOINED)
    assert all(len({nodes[one] for one in shards}) == 2 for shards in placement.everywhere.holders)


def test_shards_that_never_register_are_waited_for_a_while() -> None:
    world = World("aab")
    assert world.maps.view(JOINED) == UNDECIDED
    world.now += GATHER_SECONDS - 1
    assert world.maps.view(JOINED) == UNDECIDED
    world.now += 1
    assert got(world.maps, JOINED).copies == 2


def test_a_map_stays_wherever_its_shards_go() -> None:
    world = World("aabb")
    first = got(world.maps, JOINED)
    world.entries = [shard(index, "c", epoch=1) for index in range(4)]
    assert got(world.maps, JOINED) is first
    assert world.maps.view(JOINED, known=1) == MapView(1)


def test_another_layout_has_a_map_of_its_own_with_a_higher_epoch() -> None:
    """While a cluster is updated to more shards, the old processes go on by their map."""
    world = World("abab")
    old = got(world.maps, JOINED)
    world.entries = [shard(index, "a", epoch=1) for index in range(4)]
    more = replace(JOINED, shards=6)
    assert world.maps.view(more) == UNDECIDED  # those there are shards of the old one
    world.entries += [shard(index, "ab"[index % 2]) for index in range(6)]
    new = got(world.maps, more)
    assert (new.epoch, new.shards) == (2, 6)
    assert got(world.maps, JOINED) is old


def test_a_restarted_registry_waits_for_those_that_know_a_map() -> None:
    """Also where it would decide at once: a newer map may have been published before it died."""
    world = World(restarted=True)
    assert world.maps.view(HERE) == UNDECIDED
    world.entries = [shard(0, "a"), *(shard(index, "a", epoch=7) for index in (1, 2, 3))]
    world.now += HEAR_SECONDS
    assert world.maps.view(HERE) == UNDECIDED
    known = replace(even_placement(8, 4, 2, (2, 0, 3, 1)), epoch=7)
    world.maps.tell(HERE, known)
    assert got(world.maps, HERE) == known


def test_a_restarted_registry_hears_routers_too_before_it_decides() -> None:
    world = World("abab", restarted=True)
    assert world.maps.view(JOINED) == UNDECIDED
    world.now += HEAR_SECONDS
    assert got(world.maps, JOINED).epoch == 1


def test_who_knows_a_map_gets_no_new_one_but_is_to_tell_it() -> None:
    world = World("aaaa", restarted=True)
    assert world.maps.view(HERE, known=3) == UNDECIDED


@pytest.mark.parametrize("layout", [HERE, JOINED])
def test_a_map_that_died_with_all_who_knew_it_is_followed_by_a_higher_epoch(layout: Layout) -> None:
    world = World(restarted=True)
    world.entries = [shard(0, "a"), shard(1, "a", epoch=7)]
    assert world.maps.view(layout) == UNDECIDED
    del world.entries[1]
    world.now += HEAR_SECONDS
    world.maps.view(layout)
    world.now += GATHER_SECONDS
    assert got(world.maps, layout).epoch == 8


def test_the_highest_that_is_told_wins() -> None:
    maps = World().maps
    for epoch in (4, 9, 6):
        maps.tell(HERE, replace(even_placement(8, 4, 2), epoch=epoch))
    assert got(maps, HERE).epoch == 9


def test_the_registry_answers_for_its_maps() -> None:
    registry = ServiceRegistry(lambda: 1.0)
    assert registry.map_view(JOINED) == MapView(0, settled=False)
    for index, node in enumerate("abab"):
        registry.announce(shard(index, node))
    view = registry.map_view(JOINED)
    assert (view.epoch, view.current and view.current.copies) == (1, 2)
    registry.tell_map(JOINED, replace(even_placement(8, 4, 2), epoch=5))
    registry.tell_map(JOINED, replace(even_placement(8, 4, 2), epoch=4))
    assert registry.map_view(JOINED, known=5) == MapView(5)


class Epochs(RuleBasedStateMachine):
    """Processes come and go, registries die: no process's epoch ever decreases, and one epoch is one map."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.known: dict[int, Placement] = {}
        self.listed: list[Announcement] = []
        self.maps_by_epoch: dict[int, Placement] = {}
        self.begin(restarted=False)

    def begin(self, restarted: bool) -> None:
        self.listed = []
        self.maps = PlacementMaps(lambda: self.listed, lambda: restarted, lambda: self.now)

    def announce(self, index: int) -> None:
        self.listed = [one for one in self.listed if one.index != index]
        known = self.known.get(index)
        self.listed.append(shard(index, "ab"[index % 2], known.epoch if known else 0))

    @rule(index=st.integers(0, 3))
    def looks(self, index: int) -> None:
        """As `MapFollower.look` does."""
        self.announce(index)
        known = self.known.get(index)
        view = self.maps.view(JOINED, known.epoch if known else 0)
        found = view.current
        if known and view.epoch < known.epoch:
            self.maps.tell(JOINED, known)
        elif found:
            assert not known or found.epoch > known.epoch
            self.known[index] = found
            self.announce(index)

    @rule()
    def registry_dies(self) -> None:
        self.begin(restarted=True)

    @rule(index=st.integers(0, 3))
    def process_dies(self, index: int) -> None:
        if len(self.known) > 1:  # with the last one that knows a map its epoch is nobody's
            self.known.pop(index, None)
            self.announce(index)

    @rule(seconds=st.sampled_from([1.0, GATHER_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for index in list(self.known):
            self.announce(index)

    @rule(above=st.integers(-2, 0))
    def proposes(self, above: int) -> None:
        epoch = self.maps.view(JOINED, 1 << 40).epoch
        order: Sequence[int] = [(place + epoch) % 4 for place in range(4)]
        try:
            coming = self.maps.propose(JOINED, even_placement(8, 4, 2, order), epoch + above, "a test")
        except MigrationRefusedError:
            return
        assert coming > max([0, *(one.epoch for one in self.known.values())])

    @invariant()
    def one_epoch_is_one_map(self) -> None:
        for placement in self.known.values():
            assert self.maps_by_epoch.setdefault(placement.epoch, placement) == placement


Epochs.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEpochs = Epochs.TestCase


def test_a_layout_with_a_start_waits_until_a_process_has_told_it() -> None:
    """As its shards do from their first look on."""
    maps = PlacementMaps(list)
    layout = Layout(experts=4, shards=2, start="a file")
    assert maps.view(layout).epoch == 0
    start = Placement(2, LayerPlacement(((1,), (1,), (0, 1), (0,))))
    maps.start_from(layout, start)
    assert maps.view(layout).current == replace(start, epoch=1)
    assert maps.view(replace(layout, start="")).current != replace(start, epoch=1)
