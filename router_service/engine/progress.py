"""Tells a computation that is long from one that hangs."""

import time
from collections.abc import Callable


class Progress:
    """When something last went on, by `clock` in seconds. Moved by one thread, read by any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved = clock()

    def move(self) -> None:
        """Something was done just now."""
        self._moved = self._clock()

    def still_s(self) -> float:
        """Seconds without a move."""
        return self._clock() - self._moved
