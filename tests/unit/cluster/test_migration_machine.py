"""Migrations under any sequence of events that hypothesis finds: processes, registries and time as they come.

The processes' own code runs (followers of the map, shards' duties); time, loading and the order of events are the
test's. Checked after each step: no process's epoch decreases and one epoch is one map (I6), at most one map is coming,
and whatever map a router asks by, each expert has a holder in it that holds it (I5), unless that one died meanwhile.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from experts.placement import LayerPlacement, Placement

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    import ray

    from cluster.processes.maps.holding import Duty
    from cluster.processes.maps.map_follower import MapFollower
    from cluster.processes.maps.map_view import Asker, Seen
    from cluster.processes.maps.migration import MigrationRefusedError
    from cluster.processes.maps.placement_maps import Layout
    from cluster.processes.service_registry import FORGET_SECONDS, Announcement, ServiceRegistry

EXPERTS, SHARDS, ROUTERS, LAYER = 4, 3, 2, 0
LAYOUT = Layout(EXPERTS, SHARDS)
PREPARE_SECONDS = 30.0
SHARD, ROUTER = st.integers(0, SHARDS - 1), st.integers(0, ROUTERS - 1)
HOLDERS = st.lists(st.integers(0, SHARDS - 1), min_size=1, max_size=2, unique=True).map(tuple)
PLACEMENTS = st.lists(HOLDERS, min_size=EXPERTS, max_size=EXPERTS).map(
    lambda holders: Placement(SHARDS, LayerPlacement(tuple(holders)))
)


class Experts:
    """What a shard holds; a `budget` limits how many."""

    def __init__(self, held: tuple[int, ...]) -> None:
        self.held = {LAYER: held}
        self.budget = EXPERTS

    @property
    def weights_bytes(self) -> int:
        return len(self.held[LAYER])

    def hold(self, wanted: Mapping[int, Any], go_on: Callable[[], None]) -> None:
        go_on()
        after = tuple(sorted({*self.held[LAYER], *wanted[LAYER]}))
        if len(after) > self.budget:
            raise MemoryError("no room")
        self.held = {LAYER: after}

    def keep(self, wanted: Mapping[int, Any]) -> int:
        self.held = {LAYER: tuple(sorted({*self.held[LAYER]} & {*wanted[LAYER]}))}
        return 0


@dataclass
class Process:
    """A process: its entry, what it knows, and for a shard what it holds, for a router by which map it asks."""

    entry: Announcement
    follower: MapFollower = field(init=False)
    seen: Seen | None = None
    experts: Experts | None = None
    duty: Duty | None = None
    asks: Placement | None = None
    hung: bool = False
    last_look: float = 0.0
    forgotten: bool = False

    def prepared(self, epoch: int) -> None:
        self.entry = replace(self.entry, prepared=epoch, refused=None)

    def refuses(self, epoch: int, why: str) -> None:
        self.entry = replace(self.entry, prepared=0, refused=(epoch, why))

    def holds(self, weights_bytes: int) -> None:
        self.entry = replace(self.entry, loaded_bytes=weights_bytes)

    def note(self, epoch: int) -> None:
        assert epoch >= self.entry.epoch, "epochs never decrease"
        self.entry = replace(self.entry, epoch=epoch)


class Handle:
    """The registry's actor."""

    def __init__(self, machine: "Migrations") -> None:
        self._machine = machine

    def __getattr__(self, name: str) -> Any:
        class Method:
            def remote(inner, *arguments: Any) -> Callable[[], Any]:  # noqa: N805
                return lambda: getattr(self._machine.registry, name)(*arguments)

        return Method()


@contextmanager
def answered() -> Iterator[None]:
    with patch.object(ray, "get", lambda answer, timeout: answer()):  # noqa: ARG005 (Ray's name)
        yield


class Migrations(RuleBasedStateMachine):
    """Shards, routers and a registry, whose steps hypothesis orders."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.lives = 100.0, 0
        self.registry = ServiceRegistry(lambda: self.now)
        self.maps_by_epoch: dict[int, Placement] = {}
        self.made_by: dict[int, int] = {}  # how many lives there had been when a map was first asked by
        self.shards = [self.born("shard", index) for index in range(SHARDS)]
        self.routers = [self.born("router", index) for index in range(ROUTERS)]
        for one in [*self.shards, *self.routers]:
            self.look(one)

    def born(self, role: str, index: int) -> Process:
        self.lives += 1
        replica = f"{role}{index}-{self.lives}"
        made = Process(Announcement(role, index, replica, "n", 1, "loading", started_ns=self.lives))
        made.last_look = self.now
        made.follower = MapFollower(Handle(self), LAYOUT, made.note, Asker(role, replica), clock=lambda: self.now)
        return made

    def look(self, one: Process) -> None:
        """A process asks for the maps, and begins when it has got its first one."""
        if one.hung:
            return
        # One that was silent for so long is forgotten: it is told of the newer map now, and adopts it soon.
        one.forgotten |= self.now - one.last_look >= FORGET_SECONDS
        one.last_look = self.now
        with answered():
            one.follower.look()
            if one.seen is None and not self.known(one):
                return
            if one.seen is None:
                self.begins(one)
        one.seen = one.follower.seen
        self.registry.announce(one.entry)

    def known(self, one: Process) -> bool:
        try:
            return one.follower.seen is not None
        except AssertionError:  # no map yet
            return False

    def begins(self, one: Process) -> None:
        if one.entry.role == "router":
            newer = one.follower.begin()
            one.asks = newer or one.follower.seen.current
            one.follower.asks_by(one.asks.epoch)
        else:
            current = one.follower.seen.current
            one.experts = Experts(current.everywhere.held_by(one.entry.index))
            one.duty = Duty(one.entry.index, one.experts, one)
        one.entry = replace(one.entry, state="ready")

    @rule(index=SHARD)
    def shard_looks(self, index: int) -> None:
        self.look(self.shards[index])

    @rule(index=ROUTER)
    def router_looks(self, index: int) -> None:
        self.look(self.routers[index])

    @rule(index=SHARD)
    def shard_works(self, index: int) -> None:
        """By what it was told last, which may be old; its entry is renewed later."""
        one = self.shards[index]
        if one.duty is not None and one.seen is not None and not one.hung:
            one.duty.pursue(one.seen)

    @rule(index=ROUTER)
    def router_adopts(self, index: int) -> None:
        """Between two steps."""
        one = self.routers[index]
        if one.seen is not None and one.asks is not None and not one.hung and one.seen.current.epoch > one.asks.epoch:
            one.asks, one.forgotten = one.seen.current, False
            one.follower.asks_by(one.asks.epoch)

    @rule(placement=PLACEMENTS, behind=st.sampled_from([0, 0, 0, 1]))
    def propose(self, placement: Placement, behind: int) -> None:
        epochs = [0, *(one.entry.epoch for one in [*self.shards, *self.routers])]
        before, migration = self.registry.map_view(LAYOUT, 1 << 40), self.registry.migration(LAYOUT)
        try:
            epoch = self.registry.propose(LAYOUT, placement, before.epoch - behind, "a test", PREPARE_SECONDS)
        except MigrationRefusedError:
            return
        assert behind == 0
        assert migration is None or migration.state in ("done", "failed")
        assert epoch > max(epochs)
        assert epoch not in self.maps_by_epoch

    @rule(placement=PLACEMENTS, rounds=st.integers(1, 2))
    def propose_and_prepare(self, placement: Placement, rounds: int) -> None:
        """What is common: shards load at once. After a second round they know that it is the current map."""
        self.propose(placement, 0)
        for _ in range(rounds):
            self.shards_go_on()

    @rule()
    def shards_go_on(self) -> None:
        for index, one in enumerate(self.shards):
            self.look(one)
            self.shard_works(index)
            self.look(one)

    @rule(index=SHARD, budget=st.integers(1, EXPERTS))
    def memory_changes(self, index: int, budget: int) -> None:
        if (experts := self.shards[index].experts) is not None:
            experts.budget = max(budget, len(experts.held[LAYER]))

    @rule(index=SHARD)
    def shard_dies(self, index: int) -> None:
        """Another takes its place, and is younger."""
        self.shards[index] = self.born("shard", index)

    @rule(index=ROUTER)
    def router_dies(self, index: int) -> None:
        self.routers[index] = self.born("router", index)

    @rule(index=ROUTER, hung=st.booleans())
    def router_hangs(self, index: int, hung: bool) -> None:
        self.routers[index].hung = hung

    @rule()
    def registry_dies(self) -> None:
        if any(one.seen is not None for one in self.shards):
            self.registry = ServiceRegistry(lambda: self.now, restarted=lambda: True)

    @rule()
    def abandon(self) -> None:
        view = self.registry.map_view(LAYOUT, 1 << 40)
        if view.coming_epoch:
            self.registry.abandon(LAYOUT, view.coming_epoch, "a test")
            migration = self.registry.migration(LAYOUT)
            assert migration is not None
            assert migration.state == "failed"

    @rule(seconds=st.sampled_from([1, 3, int(FORGET_SECONDS) + 1, int(PREPARE_SECONDS) + 1]))
    def time_passes(self, seconds: int) -> None:
        """Whoever lives looks each second."""
        for _ in range(seconds):
            self.now += 1.0
            for one in [*self.shards, *self.routers]:
                self.look(one)

    @precondition(lambda self: not any(one.hung for one in self.routers))
    @rule(placement=PLACEMENTS)
    def all_goes_well(self, placement: Placement) -> None:
        """Once nothing fails any more a proposal is done within seconds, and everybody holds what it says."""
        for one in self.shards:
            if one.experts is not None:
                one.experts.budget = EXPERTS
        self.settle(int(PREPARE_SECONDS) + 2)
        epoch = self.registry.propose(
            LAYOUT, placement, self.registry.map_view(LAYOUT, 1 << 40).epoch, "a test", PREPARE_SECONDS
        )
        self.settle(6)
        migration = self.registry.migration(LAYOUT)
        assert migration is not None
        assert (migration.epoch, migration.state) == (epoch, "done")
        for one in self.shards:
            assert one.experts is not None
            assert one.experts.held[LAYER] == placement.everywhere.held_by(one.entry.index)
        assert all(one.asks is not None and one.asks.epoch == epoch for one in self.routers)

    def settle(self, seconds: int) -> None:
        for _ in range(seconds):
            self.time_passes(1)
            for index in range(SHARDS):
                self.shard_works(index)
            for index in range(ROUTERS):
                self.router_adopts(index)

    @invariant()
    def one_epoch_is_one_map(self) -> None:
        for one in [*self.shards, *self.routers]:
            for known in (one.seen and one.seen.current, one.asks):
                if known:
                    assert self.maps_by_epoch.setdefault(known.epoch, known) == known

    @invariant()
    def every_expert_is_held_by_a_holder(self) -> None:
        for router in self.routers:
            silent = router.forgotten or self.now - router.last_look >= FORGET_SECONDS
            if router.asks is not None and not silent:
                lives = self.made_by.setdefault(router.asks.epoch, self.lives)
                for expert, holders in enumerate(router.asks.everywhere.holders):
                    assert any(self.has(self.shards[index], expert, lives) for index in holders), expert

    def has(self, shard: Process, expert: int, lives: int) -> bool:
        """Whether a shard holds an expert, or has not begun, or took another's place since the map was first used."""
        if shard.experts is None or shard.entry.started_ns > lives:
            return True
        return expert in shard.experts.held[LAYER]


Migrations.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestMigrations = Migrations.TestCase
