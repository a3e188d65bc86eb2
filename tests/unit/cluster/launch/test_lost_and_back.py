"""The lines of `serve` about processes of its cluster that are lost and come back."""

import io
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.known_processes import RETURN_SECONDS
    from cluster.processes.lost_and_back import EARLY_SECONDS, LostAndBack, lives
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


def test_one_that_hangs_may_be_replaced_before_it_dies(watched: Watched) -> None:
    new = Announcement("shard", 1, "new", "here", 456, "ready")
    assert watched.lines(SHARD, new, ROUTER) == []
    watched.now += 2.0
    watched.dead = {123}
    assert watched.lines(SHARD, new, ROUTER) == ["shard 1 (pid 123) is lost", "shard 1 is back (pid 456) after 0.0 s"]


def test_one_that_was_added_long_ago_replaces_nobody(watched: Watched) -> None:
    more = replace(ROUTER, replica="more", pid=8, node="here")
    assert watched.lines(SHARD, ROUTER, more) == []
    watched.now += EARLY_SECONDS
    assert watched.lines(SHARD, ROUTER, more) == []
    watched.dead = {123}
    assert watched.lines(SHARD, ROUTER, more) == ["shard 1 (pid 123) is lost"]
    watched.now += 1.0
    watched.dead |= {8}
    assert watched.lines(SHARD, ROUTER, more) == ["router (pid 8) is lost"]


def test_one_that_goes_on_is_back_itself(watched: Watched) -> None:
    watched.dead = {123}
    assert watched.lines(SHARD, ROUTER) == ["shard 1 (pid 123) is lost"]
    watched.now += 1.5
    watched.dead = set()
    assert watched.lines(SHARD, ROUTER) == ["shard 1 is back (pid 123) after 1.5 s"]


def test_a_stopped_process_serves_as_little_as_a_dead_one() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        assert lives(process.pid)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert not lives(process.pid)
        process.kill()
    assert not lives(process.pid)


def test_one_that_died_before_the_first_look_is_lost_as_well() -> None:
    made = Watched()
    made.dead = {123}
    assert made.lines() == [], "the registry does not answer yet"
    assert made.lines(SHARD, ROUTER) == []
    assert made.lines(SHARD, ROUTER) == ["shard 1 (pid 123) is lost"]
    assert made.lines(SHARD, ROUTER) == []
