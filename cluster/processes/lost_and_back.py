"""What `serve` says of the processes of its cluster: that one is lost, and that its replacement serves."""

import os
import time
from collections.abc import Callable, Iterable
from typing import TextIO

from cluster.processes.known_processes import Absences
from cluster.processes.service_registry import Announcement

ENDING = ("draining", "drained")


class LostAndBack:
    """Compares what the registry says from time to time, and writes a line to `output` for each change.

    A process is lost if it has died on this node, if the registry no longer lists it, or if a younger one took its
    place; one that drains ends as it was told.

    Args:
        node: this node, where processes can be seen themselves.
        clock: in seconds; like `lives`, whether a process of this node runs, a test's own where it must not wait.
    """

    def __init__(
        self,
        output: TextIO,
        node: str,
        clock: Callable[[], float] = time.monotonic,
        lives: Callable[[int], bool] = lambda pid: os.path.exists(f"/proc/{pid}"),
    ) -> None:
        self._output = output
        self._node = node
        self._clock = clock
        self._lives = lives
        self._absences = Absences(clock)
        self._serving: dict[str, Announcement] = {}
        self._lost: list[tuple[float, Announcement]] = []
        self._gone: set[str] = set()

    def look(self, announcements: Iterable[Announcement]) -> None:
        """Take in an answer of the registry."""
        listed = {one.replica: one for one in announcements}
        self._serving = {name: listed.get(name, one) for name, one in self._serving.items()}
        for name in sorted(self._dead() | self._absences.gone(self._serving, listed)):
            self._lose(self._serving.pop(name))
        self._gone &= listed.keys()
        for name, one in listed.items():
            if one.state == "ready" and name not in self._serving and name not in self._gone:
                self._serving[name] = one
                self._find(one)

    def _dead(self) -> set[str]:
        here = {name: one for name, one in self._serving.items() if one.node == self._node}
        return {name for name, one in here.items() if not self._lives(one.pid)}

    def _lose(self, one: Announcement) -> None:
        self._gone.add(one.replica)  # the registry lists it for some seconds more
        if one.state not in ENDING:
            self._lost.append((self._clock(), one))
            self._say(f"{_name(one)} (pid {one.pid}) is lost")

    def _find(self, one: Announcement) -> None:
        """The oldest loss of its kind is made good; a process that nobody misses is one of the first."""
        for entry in self._lost:
            since, lost = entry
            if (lost.role, lost.index) == (one.role, one.index):
                self._lost.remove(entry)
                self._say(f"{_name(one)} is back (pid {one.pid}) after {self._clock() - since:.1f} s")
                return

    def _say(self, line: str) -> None:
        print(line, file=self._output, flush=True)


def _name(one: Announcement) -> str:
    return f"{one.role} {one.index}" if one.role == "shard" else one.role
