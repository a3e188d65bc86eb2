"""How fast bytes may be read or sent beside the work that matters: at a steady rate, whoever reads."""

import threading
import time
from collections.abc import Callable

# Who waits asks so often whether to go on.
SLICE_SECONDS = 0.1


class Pace:
    """Hands out `bytes_per_second`, 0 for as many as are wanted, to any threads (a leaky bucket without a burst).

    Args:
        clock: seconds that pass evenly.
        sleep: waits for so many of them.
    """

    def __init__(
        self,
        bytes_per_second: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = clock()

    def take(self, count: int, go_on: Callable[[], None] = lambda: None) -> None:
        """Wait until `count` bytes may be read, and take the time that they last from those that come after.

        Args:
            go_on: called before, and while it waits; what it raises ends the wait.
        """
        go_on()
        due = self._reserve(count)
        while (left := due - self._clock()) > 0:
            self._sleep(min(left, SLICE_SECONDS))
            go_on()

    def _reserve(self, count: int) -> float:
        """When these bytes may be read."""
        with self._lock:
            rate = self.bytes_per_second
            due = max(self._clock(), self._free_at)
            self._free_at = due + (count / rate if rate else 0.0)
        return due
