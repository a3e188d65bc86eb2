"""What a shard holds while maps change: it loads what a coming one gives it and gives up what none needs any more."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from cluster.processes.maps.map_view import Seen
from experts.host.log import fields
from experts.host.watched_thread import ThreadWatch
from experts.placement import Placement

log = logging.getLogger(__name__)

# After a fault of the disk or of memory that the current map cannot do without.
RETRY_SECONDS = 5.0
Wanted = Mapping[int, Sequence[int]]


class LiveExperts(Protocol):
    """Of `experts.shard.live_experts.LiveExperts` what is used here."""

    @property
    def held(self) -> Mapping[int, tuple[int, ...]]:
        """The experts of each MoE layer that are held."""

    @property
    def weights_bytes(self) -> int:
        """Bytes of their weights."""

    def hold(self, wanted: Wanted, go_on: Callable[[], None]) -> None:
        """Load what is missing; raises if that fails, or what `go_on` raises."""

    def keep(self, wanted: Wanted) -> int:
        """Give up everything else."""


class Report(Protocol):
    """Where a shard says how far it is: its entry in the registry."""

    def prepared(self, epoch: int) -> None:
        """It holds what the coming map of `epoch` gives it; 0: there is none, or not all of it."""

    def refuses(self, epoch: int, why: str) -> None:
        """It cannot hold that."""

    def holds(self, weights_bytes: int) -> None:
        """So much of the node's memory has been taken for experts."""


class SupersededError(Exception):
    """What is being loaded is not wanted any more."""


class Duty:
    """What shard `index` does about the maps that it is told, step by step; `report` says how far it is."""

    def __init__(self, index: int, experts: LiveExperts, report: Report) -> None:
        self._index = index
        self._experts = experts
        self._report = report
        self._said = 0  # the epoch of the coming map of which the entry says something

    def pursue(self, seen: Seen, go_on: Callable[[], None] = lambda: None) -> bool:
        """Hold what the current map gives, what the coming one does, and until routers have settled what is held.

        Returns whether the shard holds what the current map gives it.

        Args:
            go_on: called before each piece is loaded.

        Raises:
            SupersededError: `go_on` did.
        """
        coming = seen.coming
        if self._said and (coming is None or coming.epoch != self._said):
            self._say(0)
        maps = [seen.current] if coming is None else [seen.current, coming]
        if seen.settled:
            self._give_up(_union(maps, self._index, self._experts.held))
        if failure := self._load([seen.current], go_on):
            log.error("what the current map gives this shard cannot be loaded", extra=fields(reason=failure))
            return False
        if coming is not None and coming.epoch != self._said:
            self._say(coming.epoch, self._load(maps, go_on))
        return True

    def _say(self, epoch: int, refusal: str = "") -> None:
        if refusal:
            self._report.refuses(epoch, refusal)
        else:
            self._report.prepared(epoch)
        self._said = epoch

    def _load(self, maps: Sequence[Placement], go_on: Callable[[], None]) -> str:
        """Hold what these maps give this shard; return why that cannot be, if it cannot."""
        try:
            self._experts.hold(_union(maps, self._index, self._experts.held), go_on)
        except SupersededError:
            raise
        except Exception as error:  # BudgetError, CheckpointError, OSError: whatever it is, the shard serves on
            return f"{type(error).__name__}: {error}"
        self._report.holds(self._experts.weights_bytes)
        return ""

    def _give_up(self, wanted: Wanted) -> None:
        held = self._experts.held
        if any(set(experts).difference(wanted[layer]) for layer, experts in held.items()):
            freed = self._experts.keep(wanted)
            self._report.holds(self._experts.weights_bytes)
            log.info("experts are given up", extra=fields(bytes=freed))


class Holding:
    """Does a shard's duty on a thread of its own, which beats, drains and health checks never wait for.

    `close` ends what is being loaded.
    """

    def __init__(self, duty: Duty, threads: ThreadWatch) -> None:
        self._duty = duty
        self._changed = threading.Condition()
        self._goal: Seen | None = None
        self._new = self._superseded = self._closing = False
        threads.start("experts", self._run, lasts_until=lambda: self._closing)

    def take(self, seen: Seen) -> None:
        """From now on go by these maps. Any thread; returns at once."""
        with self._changed:
            if self._goal is not None and self._goal.coming != seen.coming:
                self._superseded = True
            self._goal, self._new = seen, True
            self._changed.notify()

    def close(self) -> None:
        """End; the thread does so at the next piece that it would read."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _run(self) -> None:
        again: float | None = None
        while (seen := self._next(again)) is not None:
            try:
                again = None if self._duty.pursue(seen, self._go_on) else RETRY_SECONDS
            except SupersededError:
                again = None

    def _next(self, again: float | None) -> Seen | None:
        """The newest goal when there is one, or after `again` seconds the same; None if this is the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._new or self._closing, again)
            self._new = self._superseded = False
            return None if self._closing else self._goal

    def _go_on(self) -> None:
        if self._superseded or self._closing:
            raise SupersededError


def _union(maps: Iterable[Placement], index: int, layers: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """The experts of each layer that any of the maps gives a shard, ascending."""
    given = list(maps)
    return {
        layer: tuple(sorted({expert for one in given for expert in one.layer(layer).held_by(index)}))
        for layer in layers
    }
