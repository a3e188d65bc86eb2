"""A process's side of the placement map: gets the first one from the registry, then looks for newer ones."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from cluster.config import ClusterConfig
from cluster.processes import ray_calls
from cluster.processes.placement_maps import GATHER_SECONDS, HEAR_SECONDS, Layout
from cluster.processes.ray_calls import RayTimeoutError
from experts.host.watched_thread import ThreadWatch
from experts.placement import Placement, even_placement

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
POLL_SECONDS = 0.25
# For a registry that has died to be back.
MARGIN_SECONDS = 20.0
WHAT = "the registry to say where experts are"


class NoMapError(RuntimeError):
    """The registry has not said in time where the experts are, and this process cannot know it."""


def layout_of(config: ClusterConfig, experts: int) -> Layout:
    """What the configuration asks of a map of `experts` experts. A cluster of our own has one node."""
    spread = bool(config.cluster.address)
    return Layout(experts, config.experts.shards, config.experts.copies, spread)


class MapFollower:
    """Knows the newest map that the registry has told.

    Args:
        note: called with the epoch of each map that is taken.
        clock: in seconds; like `sleep` a test's own where it must not wait.
    """

    def __init__(
        self,
        registry: Any,
        layout: Layout,
        note: Callable[[int], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registry = registry
        self._layout = layout
        self._note = note
        self._clock = clock
        self._sleep = sleep
        self._current: Placement | None = None
        self._silent = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def first(self, go_on: Callable[[], None] = lambda: None) -> Placement:
        """Return the current map; waits until the registry has decided it.

        A registry that stays silent holds up no cluster of one node: there every process knows what it would say.

        Args:
            go_on: called before each look; raises if the caller has been told to end.

        Raises:
            NoMapError: the registry has not told in time.
        """
        limit = (HEAR_SECONDS if self._layout.any_order else GATHER_SECONDS) + MARGIN_SECONDS
        deadline = self._clock() + limit
        while (current := self.look()) is None:
            go_on()
            if self._clock() >= deadline:
                return self._guessed(limit)
            self._sleep(POLL_SECONDS)
        return current

    def follow(self, adopt: Callable[[Placement], None], threads: ThreadWatch) -> None:
        """Look for newer maps about once a second from now on, on a thread of its own that calls `adopt` with each."""
        self._thread = threads.start("placement map", self._run, adopt, lasts_until=self._closing.is_set)

    def close(self) -> None:
        """Look no more."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=ray_calls.CALL_SECONDS)

    def look(self) -> Placement | None:
        """Return the registry's map if it is newer than what is known here; tell ours to a registry that has less."""
        try:
            found = self._asked()
            self._silent = False
        except (RayTimeoutError, ray.exceptions.RayError) as error:
            if not self._silent:  # once: it is asked again soon
                log.warning("the registry does not say where experts are, the map that is known stays: %s", error)
            self._silent = True
            return None
        return self._taken(found)

    def _asked(self) -> Placement | None:
        known, epoch = self._current, self._current.epoch if self._current else 0
        theirs, found = ray_calls.get(self._registry.placement_map.remote(self._layout, epoch), WHAT)
        if known is not None and theirs < epoch:
            ray_calls.get(self._registry.tell_map.remote(self._layout, known), WHAT)
        return found if found is not None and found.epoch > epoch else None

    def _taken(self, found: Placement | None) -> Placement | None:
        if found is not None:
            self._current = found
            self._note(found.epoch)
        return found

    def _guessed(self, seconds: float) -> Placement:
        layout = self._layout
        if layout.spread:
            raise NoMapError(
                f"the registry has not said within {seconds:.0f} s which shards hold which experts, and with several "
                f"nodes only it can: see why it does not answer, this process is started again meanwhile"
            )
        log.warning("the registry is silent: experts are placed as on every cluster of one node")
        self._current = even_placement(layout.experts, layout.shards, layout.copies)
        return self._current

    def _run(self, adopt: Callable[[Placement], None]) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            if (found := self.look()) is not None:
                adopt(found)
