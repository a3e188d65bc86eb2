"""What the engine's thread is asked to do between two steps, by the threads of a router that hand over."""

import logging
import queue
from collections.abc import Callable

from router_service.engine.request import Event

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.05

Work = Callable[[], list[Event]]


class Inbox:
    """Any thread puts work in, the engine's does it; work returns the events that are to be published."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Work] = queue.SimpleQueue()

    def put(self, work: Work) -> None:
        """Have this done before the next step."""
        self._queue.put(work)

    def wake(self) -> None:
        """End the engine's wait, if it waits."""
        self._queue.put(list)

    def work_off(self, wait: bool) -> list[Event]:
        """Do what has come in; with `wait`, wait a little for the first."""
        events: list[Event] = []
        while True:
            try:
                work = self._queue.get(block=wait, timeout=IDLE_SECONDS)
            except queue.Empty:
                return events
            try:
                events += work()
            except Exception:
                log.exception("what a Front asked for could not be done")
            wait = False
