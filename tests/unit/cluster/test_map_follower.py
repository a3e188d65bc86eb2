"""A process's map: from the registry, newer ones as they come, and what is left where the registry is dead."""

import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from cluster.config import config_from
from experts.host.watched_thread import ThreadWatch
from experts.placement import LayerPlacement, Placement, even_placement
from tests.support.mesh import until

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    import ray

    from cluster.processes.maps import map_follower
    from cluster.processes.maps.map_follower import SOON_SECONDS, MapFollower, NoMapError, layout_of
    from cluster.processes.maps.map_view import Seen
    from cluster.processes.maps.placement_maps import GATHER_SECONDS, HEAR_SECONDS, Layout
    from cluster.processes.service_registry import Announcement, ServiceRegistry

HERE = Layout(experts=8, shards=2, copies=2)
JOINED = replace(HERE, spread=True)
SECONDS = 30.0


class Remote:
    def __init__(self, handle: "Handle", name: str) -> None:
        self._handle, self._name = handle, name

    def remote(self, *arguments: Any) -> Callable[[], Any]:
        return lambda: self._handle.answer(self._name, *arguments)


class Handle:
    """The registry's actor as its processes see it; `dead` while it does not answer."""

    def __init__(self) -> None:
        self.body = ServiceRegistry()
        self.dead = False
        self.asked = 0

    def __getattr__(self, name: str) -> Remote:
        return Remote(self, name)

    def answer(self, name: str, *arguments: Any) -> Any:
        self.asked += 1
        if self.dead:
            raise ray.exceptions.RayActorError
        return getattr(self.body, name)(*arguments)


class Seconds:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now, self.at = 0.0, dict[float, Callable[[], None]]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for due in [due for due in self.at if due <= self.now]:
            self.at.pop(due)()


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer())  # noqa: ARG005 (Ray's name)
    monkeypatch.setattr(map_follower, "LOOK_SECONDS", 0.001)
    return Handle()


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


class Process:
    """One that follows the map; notes what it is told."""

    def __init__(self, handle: Handle, clock: Seconds, layout: Layout = HERE) -> None:
        self.noted: list[int] = []
        self.adopted: list[Placement] = []
        self.changed = threading.Condition()
        self.follower = MapFollower(handle, layout, self.noted.append, clock=clock, sleep=clock.sleep)

    def adopt(self, seen: Seen) -> None:
        with self.changed:
            if not self.adopted or self.adopted[-1].epoch != seen.current.epoch:
                self.adopted.append(seen.current)
            self.changed.notify_all()

    def await_epoch(self, epoch: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.adopted) and self.adopted[-1].epoch == epoch, SECONDS)


@pytest.fixture
def followed(handle: Handle, clock: Seconds) -> Iterator[Process]:
    process, threads = Process(handle, clock), ThreadWatch()
    process.follower.first()
    process.follower.follow(process.adopt, threads)
    yield process
    process.follower.close()
    threads.check()


def test_layout_is_as_configured() -> None:
    config = config_from({"experts": {"shards": 3, "copies": 2}})
    assert layout_of(config, 16) == Layout(16, 3, 2, spread=False, room=12)
    assert layout_of(config_from({"cluster": {"address": "auto"}}), 16) == Layout(16, 2, 1, spread=True, room=8)


def test_on_one_node_the_first_call_answers(handle: Handle, clock: Seconds) -> None:
    process = Process(handle, clock)
    assert process.follower.first() == replace(even_placement(8, 2, 2), epoch=1)
    assert (handle.asked, clock.now, process.noted) == (1, 0.0, [1])


def test_on_several_it_waits_for_all_shards(handle: Handle, clock: Seconds) -> None:
    looks: list[float] = []
    for index in range(2):
        entry = Announcement("shard", index, f"s{index}", "ab"[index], 1, "loading")
        clock.at[1.0 + index] = lambda entry=entry: handle.body.announce(entry) and None  # type: ignore[misc]
    placement = Process(handle, clock, JOINED).follower.first(lambda: looks.append(clock.now))
    assert (placement.copies, clock.now) == (2, 2.0)
    assert len(looks) == 8


def test_waiting_ends_where_the_process_has_to(handle: Handle, clock: Seconds) -> None:
    def go_on() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Process(handle, clock, JOINED).follower.first(go_on)


def test_a_registry_that_comes_back_answers_then(handle: Handle, clock: Seconds) -> None:
    """A shard that was restarted while the registry was down."""
    handle.dead = True
    clock.at[5.0] = lambda: setattr(handle, "dead", False)
    assert Process(handle, clock).follower.first().epoch == 1
    assert clock.now == 5.0


def test_without_a_registry_one_node_is_placed_as_ever(handle: Handle, clock: Seconds) -> None:
    handle.dead = True
    process = Process(handle, clock)
    assert process.follower.first() == even_placement(8, 2, 2)
    assert HEAR_SECONDS < clock.now < GATHER_SECONDS
    handle.dead = False
    found = process.follower.look()  # it is told nothing: nobody has decided this map
    assert (found and found.epoch, process.noted) == (1, [1])


def test_without_a_registry_several_nodes_have_no_map(handle: Handle, clock: Seconds) -> None:
    handle.dead = True
    with pytest.raises(NoMapError, match=r"the registry has not said within 80 s .* only it can"):
        Process(handle, clock, JOINED).follower.first()
    assert clock.now >= GATHER_SECONDS


@pytest.mark.parametrize("layout", [HERE, JOINED, replace(JOINED, copies=1)])
def test_what_to_expect_before_the_registry_is_there(
    handle: Handle, clock: Seconds, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    handle.dead = True
    expected = Process(handle, clock, layout).follower.expected()
    assert expected == (None if layout == JOINED else even_placement(8, 2, layout.copies))
    assert (clock.now, caplog.records) == (0.0, [])


def test_what_the_registry_says_is_to_be_expected(handle: Handle, clock: Seconds) -> None:
    """After a restart of a shard whose experts have been placed otherwise meanwhile."""
    newer = replace(even_placement(8, 2, 2, (1, 0)), epoch=3)
    handle.body.tell_map(HERE, newer)
    process = Process(handle, clock)
    assert process.follower.expected() == newer
    assert (process.follower.first(), process.noted) == (newer, [3])


def test_a_newer_map_is_adopted_and_an_older_one_is_not(handle: Handle, followed: Process) -> None:
    newer = replace(even_placement(8, 2, 1), epoch=5)
    handle.body.tell_map(HERE, newer)
    followed.await_epoch(5)
    assert followed.adopted[1:] == [newer]
    handle.body = ServiceRegistry()
    handle.body.tell_map(HERE, replace(even_placement(8, 2), epoch=3))
    until(lambda: handle.body.map_view(HERE).current == newer, "it is told")
    assert (followed.adopted[1:], followed.noted) == ([newer], [1, 5])


def test_a_restarted_registry_is_told(handle: Handle, followed: Process) -> None:
    handle.body.tell_map(HERE, replace(even_placement(8, 2, 1), epoch=4))
    followed.await_epoch(4)
    handle.dead, handle.body, asked = True, ServiceRegistry(restarted=lambda: True), handle.asked
    until(lambda: handle.asked > asked, "it asks on")
    handle.dead = False
    until(lambda: handle.body.map_view(HERE).epoch == 4, "it is told")
    assert followed.noted == [1, 4]


def test_who_misses_an_expert_looks_at_once_but_not_for_each(
    handle: Handle, clock: Seconds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at its next look, which here never comes; further ones wait for 50 ms since the last."""
    monkeypatch.setattr(map_follower, "LOOK_SECONDS", 1000.0)
    process, threads = Process(handle, clock), ThreadWatch()
    process.follower.first()
    process.follower.look()  # it is settled: the next look is due in 1000 s
    process.follower.follow(process.adopt, threads)
    for epoch in (2, 3, 4):
        handle.body.tell_map(HERE, replace(even_placement(8, 2, 2), epoch=epoch))
        process.follower.look_soon()
        process.await_epoch(epoch)
    process.follower.close()
    threads.check()
    assert clock.now == pytest.approx(3 * SOON_SECONDS)


def test_a_silent_registry_is_one_line(handle: Handle, clock: Seconds, caplog: pytest.LogCaptureFixture) -> None:
    process = Process(handle, clock)
    handle.dead = True
    for _ in range(3):
        assert process.follower.look() is None
    assert len(caplog.records) == 1


def test_a_process_tells_what_the_first_map_is_to_be(handle: Handle) -> None:
    """Also to a registry that replaces one that was told; and it loads by it before the registry is there."""
    start = Placement(2, LayerPlacement(tuple((expert % 2,) for expert in range(8))))
    layout = replace(JOINED, copies=1, start="a file")
    follower = MapFollower(handle, layout, lambda _: None, start=start)
    handle.dead = True
    assert follower.expected() == start
    handle.dead = False
    assert follower.first() == replace(start, epoch=1)
