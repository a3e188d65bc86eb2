"""Time as a watcher has been able to watch it: who oversleeps must not blame the silence on others."""


class PatienceClock:
    """Seconds that advance with each look, by at most `most_s` however long ago the last one was.

    A process that was not scheduled, or was stopped, for seconds finds all that was sent meanwhile waiting unread. By
    this clock hardly any time has passed, so it reads first, and suspects nobody.
    """

    def __init__(self, most_s: float) -> None:
        self.now = 0.0
        self._most_s = most_s
        self._last_s: float | None = None

    def advance(self, clock_s: float) -> float:
        """Look at a clock that counts seconds; returns the time by this one."""
        if self._last_s is not None:
            self.now += min(max(0.0, clock_s - self._last_s), self._most_s)
        self._last_s = clock_s
        return self.now
