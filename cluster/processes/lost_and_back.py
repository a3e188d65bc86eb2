"""What `serve` says of the processes of its cluster: that one is lost, and that its replacement serves."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from cluster.processes.known_processes import Absences
from cluster.processes.service_registry import Announcement

ENDING = ("draining", "drained")
# The replacement of one that hangs may serve before that is dead.
EARLY_SECONDS = 30.0
# As /proc names them: stopped by a signal, a zombie, dead.
NO_LIFE = ("T", "Z", "X")


def lives(pid: int) -> bool:
    """Whether a process of this node runs: one that is stopped (SIGSTOP) serves as little as a dead one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in NO_LIFE
    except OSError:
        return False


class LostAndBack:
    """Compares what the registry says from time to time, and writes a line to `output` for each change.

    A process is lost if it has died or stopped on this node, or if the registry no longer lists it; one that drains
    ends as it was told.

    Args:
        node: this node, where processes can be seen themselves.
        clock: in seconds; like `alive`, whether a process of this node runs, a test's own where it must not wait.
    """

    def __init__(
        self,
        output: TextIO,
        node: str,
        clock: Callable[[], float] = time.monotonic,
        alive: Callable[[int], bool] = lives,
    ) -> None:
        self._output = output
        self._node = node
        self._clock = clock
        self._alive = alive
        self._absences = Absences(clock)
        self._is_first = True
        self._serving: dict[str, Announcement] = {}
        self._lost: list[tuple[float, Announcement]] = []
        self._early: list[tuple[float, Announcement]] = []

    def look(self, announcements: Iterable[Announcement]) -> None:
        """Take in an answer of the registry."""
        now = self._clock()
        listed = {one.replica: one for one in announcements}
        self._serving = {name: listed.get(name, one) for name, one in self._serving.items()}
        dead = {name for name, one in self._serving.items() if not self._seems_alive(one)}
        for name in sorted(dead | self._absences.gone(self._serving, listed)):
            self._lose(self._serving.pop(name), now)
        for name, one in listed.items():
            # At first those count that have died since they were ready: they are lost at the next look.
            if one.state == "ready" and name not in self._serving and (self._is_first or self._seems_alive(one)):
                self._serving[name] = one
                if not self._is_first:
                    self._early.append((now, one))
        self._match(now)
        self._is_first = not listed

    def _seems_alive(self, one: Announcement) -> bool:
        return one.node != self._node or self._alive(one.pid)

    def _lose(self, one: Announcement, now: float) -> None:
        self._early = [entry for entry in self._early if entry[1].replica != one.replica]
        if one.state not in ENDING:
            self._lost.append((now, one))
            self._say(f"{_name(one)} (pid {one.pid}) is lost")

    def _match(self, now: float) -> None:
        """The oldest loss of a kind is made good by the first that came; one that nobody misses is one more."""
        for entry in [entry for entry in self._early if now - entry[0] < EARLY_SECONDS]:
            came, one = entry
            since = next((loss for loss in self._lost if _kind(loss[1]) == _kind(one)), None)
            if since is not None:
                self._lost.remove(since)
                self._early.remove(entry)
                self._say(f"{_name(one)} is back (pid {one.pid}) after {max(0.0, came - since[0]):.1f} s")
        self._early = [entry for entry in self._early if now - entry[0] < EARLY_SECONDS]

    def _say(self, line: str) -> None:
        print(line, file=self._output, flush=True)


def _kind(one: Announcement) -> tuple[str, int]:
    return one.role, one.index


def _name(one: Announcement) -> str:
    return f"{one.role} {one.index}" if one.role == "shard" else one.role
