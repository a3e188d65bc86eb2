"""Waiting with a bound."""

import time
from collections.abc import Callable

POLL_S = 0.2


def wait_until(what: str, seconds: float, true: Callable[[], bool]) -> float:
    """Poll `true()` until it holds; return how long that took.

    Raises:
        AssertionError: it did not within `seconds`.
    """
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(POLL_S)
    return time.monotonic() - begun
