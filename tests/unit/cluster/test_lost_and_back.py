"""The lines of `serve` about processes of its cluster that are lost and come back."""

import io
import warnings
from dataclasses import replace

import pytest

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.known_processes import RETURN_SECONDS
    from cluster.processes.lost_and_back import LostAndBack
    from cluster.processes.service_registry import Announcement

SHARD = Announcement("shard", 1, "old", "here", 123, "ready")
ROUTER = Announcement("router", 0, "r", "there", 7, "ready")


class Watched:
    """What was said of the processes of two nodes, whose clock and processes the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.dead: set[int] = set()
        self._said = io.StringIO()
        self._watch = LostAndBack(self._said, "here", lambda: self.now, lambda pid: pid not in self.dead)

    def lines(self, *announcements: Announcement) -> list[str]:
        """The lines that an answer of the registry adds."""
        before = len(self._said.getvalue())
        self._watch.look(announcements)
        return self._said.getvalue()[before:].splitlines()


@pytest.fixture
def watched() -> Watched:
    made = Watched()
    assert made.lines(SHARD, ROUTER) == []
    return made


def test_one_that_dies_on_this_node_is_lost_at_once_though_it_still_is_listed(watched: Watched) -> None:
    watched.dead = {123}
    assert watched.lines(SHARD, ROUTER) == ["shard 1 (pid 123) is lost"]
    watched.now += 2.0
    new = Announcement("shard", 1, "new", "here", 456, "loading")
    assert watched.lines(SHARD, new, ROUTER) == []
    watched.now += 2.2
    new = replace(new, state="ready")
    assert watched.lines(new, ROUTER) == ["shard 1 is back (pid 456) after 4.2 s"]
    assert watched.lines(new, ROUTER) == []


def test_one_of_another_node_is_lost_when_the_registry_no_longer_lists_it(watched: Watched) -> None:
    assert watched.lines(SHARD) == []
    watched.now += RETURN_SECONDS
    assert watched.lines(SHARD) == ["router (pid 7) is lost"]
    watched.now += 1.0
    assert watched.lines(SHARD, replace(ROUTER, replica="s", pid=8)) == ["router is back (pid 8) after 1.0 s"]


def test_a_registry_that_restarts_loses_nobody(watched: Watched) -> None:
    assert watched.lines() == []
    watched.now += 1.5
    assert watched.lines(ROUTER) == []
    watched.now += 1.5
    assert watched.lines(SHARD, ROUTER) == []


@pytest.mark.parametrize("state", ["draining", "drained"])
def test_one_that_was_told_to_end_is_not_lost(watched: Watched, state: str) -> None:
    assert watched.lines(replace(SHARD, state=state), ROUTER) == []
    watched.dead = {123}
    assert watched.lines(replace(SHARD, state=state), ROUTER) == []
    assert watched.lines(Announcement("shard", 1, "new", "here", 456, "ready"), ROUTER) == []


def test_of_two_alike_each_comes_back_for_itself(watched: Watched) -> None:
    both = [replace(ROUTER, replica=name, node="here", pid=pid) for name, pid in (("a", 8), ("b", 9))]
    assert watched.lines(SHARD, ROUTER, *both) == []
    watched.dead = {8, 9}
    assert watched.lines(SHARD, ROUTER, *both) == ["router (pid 8) is lost", "router (pid 9) is lost"]
    watched.now += 3.0
    first = replace(ROUTER, replica="c", pid=10)
    assert watched.lines(SHARD, ROUTER, first) == ["router is back (pid 10) after 3.0 s"]
    watched.now += 1.0
    more = [first, replace(ROUTER, replica="d", pid=11), replace(ROUTER, replica="e", pid=12)]
    assert watched.lines(SHARD, ROUTER, *more) == ["router is back (pid 11) after 4.0 s"]
