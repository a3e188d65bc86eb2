"""A change of placement, case by case: how it goes on, what ends it, and that the old one stays where it fails."""

import warnings
from dataclasses import replace

import pytest

from experts.placement import LayerPlacement, Placement, even_placement

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.maps.askers import FORGET_SECONDS
    from cluster.processes.maps.map_view import Asker
    from cluster.processes.maps.migration import Migration, MigrationRefusedError, changed_copies
    from cluster.processes.maps.placement_maps import HEAR_SECONDS, Layout
    from cluster.processes.service_registry import Announcement, ServiceRegistry

LAYOUT = Layout(experts=4, shards=2)
MOVED = even_placement(4, 2, 1, (1, 0))
COPIED = even_placement(4, 2, 2)
LIMIT_S = 60.0


class World:
    """A registry with two shards and a router that have begun by the first map; a clock that the test moves."""

    def __init__(self) -> None:
        self.now, self.asked_by = 100.0, 1
        self.entries = {f"s{index}": Announcement("shard", index, f"s{index}", "n", 1, "ready") for index in range(2)}
        self.begin(restarted=False)
        self.look()

    def begin(self, restarted: bool) -> None:
        self.registry = ServiceRegistry(lambda: self.now, lambda: restarted)

    def look(self, *replicas: str) -> None:
        """These shards, or all, and the router renew their entries and ask for the maps."""
        for replica in replicas or self.entries:
            self.registry.announce(self.entries[replica])
            self.registry.map_view(LAYOUT, 0, Asker("shard", replica))
        self.registry.map_view(LAYOUT, 0, Asker("router", "r", asks_by=self.asked_by))

    def say(self, replica: str, **changed: object) -> None:
        self.entries[replica] = replace(self.entries[replica], **changed)  # type: ignore[arg-type]

    def prepare(self, epoch: int, *replicas: str) -> None:
        self.look()  # they are shown what is coming
        for replica in replicas or list(self.entries):
            self.say(replica, prepared=epoch)
        self.look()

    def propose(self, placement: Placement = MOVED, basis: int = 1, layout: Layout = LAYOUT) -> int:
        return self.registry.propose(layout, placement, basis, "a test", LIMIT_S)

    @property
    def migration(self) -> Migration:
        found = self.registry.migration(LAYOUT)
        assert found is not None
        return found

    @property
    def epoch(self) -> int:
        return self.registry.map_view(LAYOUT, 1 << 40).epoch

    def failed(self, reason: str) -> None:
        assert (self.migration.state, self.epoch) == ("failed", 1)
        assert reason in self.migration.reason
        assert self.registry.map_view(LAYOUT, 1).coming is None


@pytest.fixture
def world() -> World:
    return World()


def test_it_is_prepared_switched_to_and_settled(world: World) -> None:
    assert world.registry.migration(LAYOUT) is None
    assert world.propose() == 2
    assert (world.migration.state, world.migration.shards_loading, world.migration.reason) == ("preparing", 2, "a test")
    view = world.registry.map_view(LAYOUT, 1)
    assert (view.epoch, view.coming, view.coming_epoch, view.settled) == (1, replace(MOVED, epoch=2), 2, True)
    world.prepare(2, "s0")
    assert (world.migration.state, world.migration.shards_ready, world.epoch) == ("preparing", 1, 1)
    world.prepare(2)
    assert (world.migration.state, world.migration.shards_ready, world.epoch) == ("switched", 2, 2)
    assert not world.registry.map_view(LAYOUT, 2).settled
    with pytest.raises(MigrationRefusedError, match="the change to epoch 2 is not over: it is switched"):
        world.propose(basis=2)
    world.asked_by = 2
    world.look()
    assert world.registry.map_view(LAYOUT, 2).settled
    assert world.migration.state == "done"
    assert world.migration.ended >= world.migration.began > 0
    assert world.propose(even_placement(4, 2), 2) == 3


def test_who_has_the_coming_map_is_not_sent_it_again(world: World) -> None:
    world.propose()
    asker = Asker("shard", "s0", coming=2)
    assert world.registry.map_view(LAYOUT, 1, asker).coming is not None  # another registry may have given that epoch
    view = world.registry.map_view(LAYOUT, 1, asker)
    assert (view.coming, view.coming_epoch) == (None, 2)


def test_of_two_proposals_the_second_is_refused(world: World) -> None:
    world.propose()
    with pytest.raises(MigrationRefusedError, match="the change to epoch 2 is not over: it is preparing"):
        world.propose(COPIED)


@pytest.mark.parametrize(
    ("placement", "basis", "layout", "why"),
    [
        (MOVED, 0, LAYOUT, "made from the map of epoch 0, the current one is 1"),
        (even_placement(5, 2), 1, LAYOUT, "a map of 5 experts on 2 shards cannot follow one of 4 on 2"),
        (even_placement(4, 3), 1, LAYOUT, "a map of 4 experts on 3 shards cannot follow one of 4 on 2"),
        (MOVED, 1, replace(LAYOUT, copies=2), "no map has been decided yet"),
    ],
)
def test_what_cannot_follow_is_refused(
    world: World, placement: Placement, basis: int, layout: Layout, why: str
) -> None:
    with pytest.raises(MigrationRefusedError, match=why):
        world.propose(placement, basis, layout)
    assert world.registry.migration(LAYOUT) is None


def test_too_few_copies_are_refused(world: World) -> None:
    twice = replace(LAYOUT, copies=2)
    epoch = world.registry.map_view(twice).epoch
    with pytest.raises(MigrationRefusedError, match="would have 1 copies"):
        world.propose(MOVED, epoch, twice)


def test_a_shard_that_refuses_ends_it(world: World) -> None:
    world.propose()
    world.prepare(2, "s0")
    world.say("s1", refused=(2, "no memory"))
    world.look()
    world.failed("shard 1 refuses: no memory")
    assert world.propose(COPIED) == 3  # no epoch is given twice


def test_the_time_limit_ends_it(world: World) -> None:
    world.propose()
    for _ in range(int(LIMIT_S)):
        world.now += 1
        world.prepare(2, "s1")
    world.failed("not prepared in time: shards 0")


def test_a_shard_that_dies_may_be_replaced_meanwhile(world: World) -> None:
    world.propose()
    world.prepare(2, "s1")
    del world.entries["s0"]
    world.now += FORGET_SECONDS + 1
    world.look()
    assert world.migration.state == "preparing"
    world.entries["new"] = Announcement("shard", 0, "new", "n", 1, "loading", started_ns=5)
    world.look()
    assert world.migration.state == "preparing"
    world.say("new", state="ready")
    world.prepare(2, "new")
    assert world.migration.state == "switched"


def test_a_dead_shard_that_had_prepared_does_not_count_for_its_replacement(world: World) -> None:
    world.propose()
    world.prepare(2, "s0")
    world.entries["new"] = Announcement("shard", 0, "new", "n", 1, "loading", started_ns=5)
    world.prepare(2, "s1")
    assert world.migration.state == "preparing"


def test_one_that_drains_is_not_switched_to(world: World) -> None:
    world.propose()
    world.say("s0", state="draining")
    world.prepare(2)
    assert world.migration.state == "preparing"


def test_an_order_ends_it(world: World) -> None:
    world.propose()
    world.registry.abandon(LAYOUT, 1, "of another")
    assert world.migration.state == "preparing"
    world.registry.abandon(LAYOUT, 2, "the balancer ends")
    world.failed("the balancer ends")


def test_a_restarted_registry_has_forgotten_what_was_coming(world: World) -> None:
    world.propose()
    world.prepare(2, "s0")
    world.begin(restarted=True)
    world.registry.tell_map(LAYOUT, replace(even_placement(4, 2), epoch=1))
    world.look()
    view = world.registry.map_view(LAYOUT, 1)
    assert (view.epoch, view.coming, view.settled) == (1, None, False)
    with pytest.raises(MigrationRefusedError, match="restarted"):
        world.propose()
    world.now += HEAR_SECONDS
    world.look()
    assert world.registry.map_view(LAYOUT, 1).settled
    assert world.propose() == 3, "the epoch of a map for which shards have prepared is not given to another"


def test_a_newer_map_that_a_process_knows_ends_it(world: World) -> None:
    world.propose()
    world.registry.tell_map(LAYOUT, replace(COPIED, epoch=7))
    assert (world.migration.state, world.epoch) == ("failed", 7)
    assert "a newer map, epoch 7" in world.migration.reason


@pytest.mark.parametrize("state", ["gone", "silent"])
def test_a_router_that_dies_holds_nothing_up_for_long(world: World, state: str) -> None:
    world.propose()
    world.prepare(2)
    for replica in ("s0", "s1"):
        world.registry.map_view(LAYOUT, 2, Asker("shard", replica))
    assert world.migration.state == "switched"
    if state == "gone":
        world.registry.withdraw("router", 0, "r")
    else:
        world.now += FORGET_SECONDS
    assert world.migration.state == "done"


def test_a_router_counts_from_when_it_says_that_it_asks(world: World) -> None:
    world.asked_by = 0
    world.look()
    world.propose()
    world.prepare(2)
    assert world.migration.state == "done"
    # One that begins now by the old map is told of the new one in the same breath.
    view = world.registry.map_view(LAYOUT, 1, Asker("router", "late", asks_by=1))
    assert view.current == replace(MOVED, epoch=2)
    assert not view.settled


def test_processes_of_another_layout_take_no_part(world: World) -> None:
    """While a cluster is updated: the others are younger, and have shards of the same numbers."""
    more = replace(LAYOUT, shards=4)
    for index in range(2):
        world.registry.announce(Announcement("shard", index, f"o{index}", "n", 1, "ready", started_ns=9))
        world.registry.map_view(more, 0, Asker("shard", f"o{index}"))
    world.registry.map_view(more, 0, Asker("router", "other", asks_by=2))
    epoch = world.propose()
    assert epoch == 3
    world.prepare(epoch)
    world.asked_by = epoch
    world.look()
    assert world.migration.state == "done"


def test_an_empty_shard_is_not_waited_for(world: World) -> None:
    world.propose(Placement(2, LayerPlacement(((1,),) * 4)))
    world.prepare(2, "s1")
    assert (world.epoch, world.migration.shards_loading) == (2, 1)


def test_copies_are_counted_where_a_map_places_them() -> None:
    before = even_placement(4, 2)
    after = Placement(2, before.everywhere, {3: MOVED.everywhere, 5: COPIED.everywhere})
    added, dropped = changed_copies(before, after)
    assert added == {*((3, expert, 1 - expert // 2) for expert in range(4))} | {
        (5, expert, 1 - expert // 2) for expert in range(4)
    }
    assert dropped == {(3, expert, expert // 2) for expert in range(4)}
    assert changed_copies(before, COPIED)[1] == frozenset()
