"""A process's entry in the registry, renewed once a second."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import ray

from cluster.processes import ray_calls
from cluster.processes.ray_calls import RayTimeoutError
from cluster.processes.service_registry import Announcement, DrainOrder
from experts.host.watched_thread import ThreadWatch

log = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 1.0
CLOSE_SECONDS = 5.0


class Announcer:
    """Renews the entry that `describe` returns once a second, on a thread of its own.

    `on_order` is called on that thread at each renewal while there is an order, so it must return at once. The thread
    is added to `threads`, those of the process.
    """

    def __init__(
        self,
        registry: Any,
        describe: Callable[[], Announcement],
        on_order: Callable[[DrainOrder], None],
        threads: ThreadWatch,
    ) -> None:
        self._registry = registry
        self._describe = describe
        self._on_order = on_order
        self._wake = threading.Event()
        self._closing = False
        self._thread = threads.start("announcer", self._run, lasts_until=lambda: self._closing)

    def announce_now(self) -> None:
        """Renew the entry now, because something has changed."""
        self._wake.set()

    def close(self) -> None:
        """Stop renewing the entry and withdraw it."""
        self._closing = True
        self._wake.set()
        # First the thread: a renewal after the withdrawal would bring the entry back.
        self._thread.join(timeout=CLOSE_SECONDS)
        last = self._describe()
        try:
            ray_calls.get(
                self._registry.withdraw.remote(last.role, last.index, last.replica), "the registry to forget us"
            )
        except (RayTimeoutError, ray.exceptions.RayError) as error:
            log.warning("could not withdraw from the registry: %s", error)

    def _run(self) -> None:
        while not self._closing:
            try:
                order = ray_calls.get(
                    self._registry.announce.remote(self._describe()), "the registry to renew our entry"
                )
                if order is not None:
                    self._on_order(order)
            except (RayTimeoutError, ray.exceptions.RayError) as error:
                log.warning("could not renew the registry entry: %s", error)
            self._wake.wait(ANNOUNCE_SECONDS)
            self._wake.clear()
