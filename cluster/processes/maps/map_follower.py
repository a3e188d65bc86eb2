"""A process's side of the placement maps: gets the first one from the registry, then follows how they change."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray

from cluster.config import ClusterConfig
from cluster.planner.start_placement import start_name
from cluster.processes import ray_calls
from cluster.processes.maps.map_view import ANYBODY, Asker, MapView, Seen
from cluster.processes.maps.placement_maps import GATHER_SECONDS, HEAR_SECONDS, Layout
from cluster.processes.ray_calls import RayTimeoutError
from experts.host.watched_thread import ThreadWatch
from experts.placement import Placement, even_placement

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
# While a map is coming, or routers change over to one: until they have, shards hold what both give them.
QUICK_SECONDS = 0.2
# At least between two looks that `look_soon` asks for: whoever misses one expert may miss many.
SOON_SECONDS = 0.05
POLL_SECONDS = 0.25
# One that runs answers in milliseconds; when a cluster starts, its shards may be there before it.
GLANCE_SECONDS = 0.5
# For a registry that has died to be back.
MARGIN_SECONDS = 20.0
WHAT = "the registry to say where experts are"


class NoMapError(RuntimeError):
    """The registry has not said in time where the experts are, and this process cannot know it."""


def layout_of(config: ClusterConfig, experts: int) -> Layout:
    """What the configuration asks of a map of `experts` experts. A cluster of our own has one node."""
    spread = bool(config.cluster.address)
    experts_config = config.experts
    return Layout(
        experts,
        experts_config.shards,
        experts_config.copies,
        spread,
        start_name(config),
        experts_config.room(experts),
    )


class MapFollower:
    """Knows the newest maps that the registry has told.

    A router says by which epoch it asks: `begin` before its first call, `asks_by` whenever it has changed over. Until
    every router has, shards hold what the map from before gives them.

    Args:
        note: called with the epoch of each map by which the process goes from now on.
        asker: who asks.
        start: the placement that the first map is to be, where the layout names one.
        clock: in seconds; like `sleep` a test's own where it must not wait.
    """

    def __init__(
        self,
        registry: Any,
        layout: Layout,
        note: Callable[[int], None],
        asker: Asker = ANYBODY,
        *,
        start: Placement | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registry = registry
        self._layout = layout
        self._note = note
        self._asker = asker
        self._start = start
        self._clock = clock
        self._sleep = sleep
        self._current: Placement | None = None
        self._coming: Placement | None = None
        self._settled = False
        self._silent = False
        self._closing = False
        self._soon = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def expected(self) -> Placement | None:
        """The map if the registry says it at once, else that with which a cluster begins; None if that is not known.

        So loading need not wait for a registry that starts later. `first` says whether it was right.
        """
        self._silent = True  # where a cluster starts, that it does not answer yet is no news
        found = self.look(GLANCE_SECONDS)
        return found or (self._beginning() if self._predictable else None)

    def first(self, go_on: Callable[[], None] = lambda: None) -> Placement:
        """Return the current map; waits until the registry has decided it.

        A registry that stays silent holds up no cluster of one node: there every process knows what it would say.

        Args:
            go_on: called before each look; raises if the caller has been told to end.

        Raises:
            NoMapError: the registry has not told in time.
        """
        limit = (HEAR_SECONDS if self._predictable else GATHER_SECONDS) + MARGIN_SECONDS
        deadline = self._clock() + limit
        while (current := self.look() or self._current) is None:
            go_on()
            if self._clock() >= deadline:
                return self._guessed(limit)
            self._sleep(POLL_SECONDS)
        return current

    def begin(self) -> Placement | None:
        """Say that this router asks by the map that it knows; return a newer one if there is one by now.

        The registry learns of it before the router's first call, and so at no time forgets one that asks.
        """
        assert self._current is not None, "a router has got its first map by now"
        self.asks_by(self._current.epoch)
        return self.look()

    @property
    def seen(self) -> Seen:
        """What is known now; the first map must be."""
        assert self._current is not None, "the first map is there before it is followed"
        return Seen(self._current, self._coming, self._settled)

    def asks_by(self, epoch: int) -> None:
        """This router makes no call by an older map any more. Any thread; returns at once."""
        self._asker = replace(self._asker, asks_by=epoch)
        self._note(epoch)
        self._wake.set()

    def look_soon(self) -> None:
        """Look at once, or 50 ms after the last look: a shard does not hold what our map says. Any thread; returns."""
        self._soon = True
        self._wake.set()

    def follow(self, take: Callable[[Seen], None], threads: ThreadWatch) -> None:
        """Look for news from now on, on a thread of its own that calls `take` with what is known, and when it changes.

        It looks about once a second, and more often while a map is coming or not settled.
        """
        self._thread = threads.start("placement map", self._run, take, lasts_until=lambda: self._closing)

    def close(self) -> None:
        """Look no more."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=ray_calls.CALL_SECONDS)

    def look(self, seconds: float = ray_calls.CALL_SECONDS) -> Placement | None:
        """Return the registry's map if it is newer than what is known here; tell ours to a registry that has less."""
        try:
            found = self._asked(seconds)
            self._silent = False
        except (RayTimeoutError, ray.exceptions.RayError) as error:
            if not self._silent:  # once: it is asked again soon
                log.warning("the registry does not say where experts are, the map that is known stays: %s", error)
            self._silent = True
            return None
        return self._taken(found)

    def _asked(self, seconds: float) -> Placement | None:
        known, epoch = self._current, self._current.epoch if self._current else 0
        asker = replace(self._asker, coming=self._coming.epoch if self._coming else 0)
        view: MapView = ray_calls.get(self._registry.map_view.remote(self._layout, epoch, asker), WHAT, seconds)
        if self._start is not None and not view.epoch and known is None:
            ray_calls.get(self._registry.start_from.remote(self._layout, self._start), WHAT, seconds)
        if known is not None and view.epoch < epoch:
            ray_calls.get(self._registry.tell_map.remote(self._layout, known), WHAT, seconds)
        if view.coming is not None or not view.coming_epoch:
            self._coming = view.coming
        # A registry that knows an older map than we do does not know who asks by ours.
        self._settled = view.settled and view.epoch >= epoch
        return view.current if view.current is not None and view.epoch > epoch else None

    def _taken(self, found: Placement | None) -> Placement | None:
        if found is not None:
            self._current = found
            if self._asker.role != "router":  # a router goes by it when it has changed over
                self._note(found.epoch)
        return found

    def _guessed(self, seconds: float) -> Placement:
        if self._layout.spread and self._start is None:
            raise NoMapError(
                f"the registry has not said within {seconds:.0f} s which shards hold which experts, and with several "
                f"nodes only it can: see why it does not answer, this process is started again meanwhile"
            )
        log.warning("the registry is silent: experts are placed as its first map would say")
        self._current = self._beginning()
        return self._current

    @property
    def _predictable(self) -> bool:
        """Whether every process knows what the first map will be."""
        return self._start is not None or self._layout.any_order

    def _beginning(self) -> Placement:
        if self._start is not None:
            return self._start
        return even_placement(self._layout.experts, self._layout.shards, self._layout.copies, room=self._layout.room)

    def _run(self, take: Callable[[Seen], None]) -> None:
        told: Seen | None = None
        looked = self._clock()
        while not self._closing:
            if (seen := self.seen) != told:
                told = seen
                take(seen)
            self._rest(looked)
            looked = self._clock()
            self.look()

    def _rest(self, looked: float) -> None:
        """Until the next look; the last one was at `looked`."""
        self._wake.wait(QUICK_SECONDS if self._coming or not self._settled else LOOK_SECONDS)
        self._wake.clear()
        if self._soon:
            self._soon = False
            if (early := looked + SOON_SECONDS - self._clock()) > 0:
                self._sleep(early)
