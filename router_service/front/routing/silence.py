"""How long a router has said nothing, measured in ticks of the Front's own event loop.

A Front that oversleeps makes no ticks meanwhile, so that it takes no router for silent whose messages it has not read.
"""

TICK_SECONDS = 0.25


class Silence:
    """Counts the ticks since the last byte.

    Args:
        limit_s: a router that sends nothing for this long is silent. It is never noticed later than that.
        patience_s: how much longer its streams wait for it where there is no other router.
    """

    def __init__(self, limit_s: float, patience_s: float) -> None:
        self._limit = silence_ticks(limit_s)
        self._end = self._limit + round(patience_s / tick_seconds(limit_s))
        self._received = 0
        self._ticks = 0

    def tick(self, received: int) -> None:
        """Note how many bytes were received so far."""
        self._ticks = 0 if received != self._received else self._ticks + 1
        self._received = received

    @property
    def hesitant(self) -> bool:
        """Whether it has been quiet for half the limit: a router that works says something every second."""
        return 2 * self._ticks >= self._limit

    @property
    def silent(self) -> bool:
        """Whether it has been quiet for the limit."""
        return self._ticks >= self._limit

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any longer."""
        return self._ticks >= self._end


def tick_seconds(limit_s: float) -> float:
    """Return the time between two ticks: a quarter of a second, less for a low limit."""
    return min(TICK_SECONDS, limit_s / 4)


def silence_ticks(limit_s: float) -> int:
    """Return how many ticks without a byte make a router silent: its last one came up to a tick before the first."""
    return round(limit_s / tick_seconds(limit_s)) - 1
