"""Work that other threads of a router hand to the engine's thread, which does it between two steps."""

import logging
import queue
from collections.abc import Callable

from router_service.engine.request import Event

log = logging.getLogger(__name__)

# Stalled requests time out without any work coming in, so the engine looks at them this often.
IDLE_SECONDS = 0.05

Work = Callable[[], list[Event]]


class Inbox:
    """A queue that any thread may put work into and the engine's thread empties; work returns the events to publish."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Work] = queue.SimpleQueue()

    def put(self, work: Work) -> None:
        """Queue work for before the next step."""
        self._queue.put(work)

    def wake(self) -> None:
        """End the engine's wait, if it is waiting."""
        # `list` is work that does nothing: it returns no events.
        self._queue.put(list)

    def run_queued(self, wait: bool) -> list[Event]:
        """Do all queued work and return its events; with `wait`, wait up to 50 ms for the first item."""
        events: list[Event] = []
        while True:
            try:
                work = self._queue.get(block=wait, timeout=IDLE_SECONDS)
            except queue.Empty:
                return events
            try:
                events += work()
            except Exception:
                # One request must not end the thread that all requests depend on.
                log.exception("a Front's request could not be handled")
            # Only for the first: what comes during this call would otherwise be waited for again and again.
            wait = False
