"""A router's links to all shards, for the thread that watches them and the one that asks them."""

import threading
from collections.abc import Callable

from experts.links.machine import Link, LinkLimits
from experts.links.record import FailureRecord
from experts.links.state import LinkState

Input = Callable[[Link, float], None]


class Links:
    """The link to each shard; an unknown shard's is DIALING. Any thread may call this.

    A connection to a shard has a number: what is said of an earlier one changes nothing. `now` is the watcher's time,
    see `tick`.

    Args:
        record: counts suspicions.
    """

    def __init__(self, record: FailureRecord | None = None) -> None:
        self.limits = LinkLimits()
        self.record = record or FailureRecord()
        self.now = 0.0
        # Asked for each block of each layer: a list by shard would do, but shards come one by one.
        self._states: dict[int, LinkState] = {}
        self._ranks: dict[int, int] = {}
        self._links: dict[int, Link] = {}
        self._numbers: dict[int, int] = {}
        self._lock = threading.Lock()
        self._listeners: list[Callable[[int], None]] = []

    def listen(self, changed: Callable[[int], None]) -> None:
        """Call `changed` with a shard whose state has changed, on whichever thread that came about."""
        self._listeners.append(changed)

    def state(self, shard: int) -> LinkState:
        """The state of the link."""
        return self._states.get(shard, LinkState.DIALING)

    def rank(self, shard: int) -> int:
        """Which of several shards is asked first: the lowest. One that drains is asked after those that do not."""
        return self._ranks.get(shard, LinkState.DIALING.rank)

    def reason(self, shard: int) -> str:
        """Why the link is DEAD, else empty."""
        link = self._links.get(shard)
        return "" if link is None else link.reason

    def number(self, shard: int) -> int:
        """The number of the shard's present connection."""
        return self._numbers.get(shard, 0)

    def connected(self, shard: int) -> int:
        """The shard is connected anew; returns the connection's number."""
        with self._lock:
            number = self._numbers[shard] = self._numbers.get(shard, 0) + 1
        self._put(shard, number, Link.connected)
        return number

    def ended(self, shard: int, number: int, reason: str) -> None:
        """A connection has ended."""
        self._put(shard, number, lambda link, _: link.ended(reason))

    def beat(self, shard: int, number: int, busy: bool, progress: int, draining: bool = False) -> None:
        """A beat has come."""
        self._put(shard, number, lambda link, now: link.beat(now, busy, progress, draining))

    def asked(self, shard: int, number: int) -> None:
        """The shard was asked for its status."""
        self._put(shard, number, Link.asked)

    def told(self, shard: int, number: int) -> None:
        """It has told its status."""
        self._put(shard, number, lambda link, _: link.told())

    def late(self, shard: int, number: int, sequence: int) -> None:
        """An ask has been open for longer than usual."""
        self._put(shard, number, lambda link, now: link.late(now, sequence))

    def settled(self, shard: int, number: int, sequence: int) -> None:
        """An ask that was late has been answered, or nobody waits for it any more."""
        self._put(shard, number, lambda link, _: link.settled(sequence))

    def tick(self, now: float) -> None:
        """Time has passed, by the watcher's patience."""
        self.now = now
        for shard in list(self._links):
            self._put(shard, self._numbers[shard], Link.tick)

    def _put(self, shard: int, number: int, change: Input) -> None:
        with self._lock:
            link = self._links.get(shard)
            if link is None:
                link = self._links[shard] = Link(self.limits)
            if number != self._numbers.get(shard):
                return
            before, suspicions, forgiven = link.state, link.suspicions, link.forgiven
            change(link, self.now)
            self.record.suspicions += link.suspicions - suspicions
            self.record.forgiven += link.forgiven - forgiven
            state = self._states[shard] = link.state
            drains = link.draining and state is LinkState.LIVE
            self._ranks[shard] = LinkState.SUSPECT.rank if drains else state.rank
        if state is not before:
            for listener in self._listeners:
                listener(shard)
