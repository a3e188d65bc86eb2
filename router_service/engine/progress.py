"""Distinguishes a long computation from one that hangs."""

import time
from collections.abc import Callable


class Progress:
    """When a computation last made progress, by `clock` in seconds. Written by one thread, read by any."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved = clock()

    def move(self) -> None:
        """Note that progress was made now."""
        self._moved = self._clock()

    def still_s(self) -> float:
        """Seconds since the last progress."""
        return self._clock() - self._moved
