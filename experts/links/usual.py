"""How long a shard usually takes for so many rows: the 99th percentile of its own recent answers."""

WINDOW = 128
EVERY = 16
FLOOR_SECONDS = 0.05
UNKNOWN_SECONDS = 1.0
FACTOR = 2.0


class _Window:
    """The last `WINDOW` answers of one size, and what is late by them; sorted anew once in `EVERY` answers."""

    __slots__ = ("_at", "_seconds", "late_s")

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._at = 0
        self.late_s = UNKNOWN_SECONDS

    def note(self, seconds: float) -> None:
        if len(self._seconds) < WINDOW:
            self._seconds.append(seconds)
        else:
            self._seconds[self._at % WINDOW] = seconds
        self._at += 1
        if self._at % EVERY == 0:
            known = sorted(self._seconds)
            self.late_s = FACTOR * known[-1 - len(known) // 100] + FLOOR_SECONDS


class UsualTimes:
    """When an ask counts as late: `FACTOR` times the shard's usual time for so many rows, and a floor.

    Sizes are told apart by their power of two. Until a size has `EVERY` answers it is `UNKNOWN_SECONDS`.
    """

    def __init__(self) -> None:
        self._windows: dict[int, dict[int, _Window]] = {}

    def note(self, shard: int, rows: int, seconds: float) -> None:
        """An ask for so many rows was answered after `seconds`."""
        self._window(shard, rows).note(seconds)

    def late_s(self, shard: int, rows: int) -> float:
        """After so many seconds such an ask is late."""
        return self._window(shard, rows).late_s

    def _window(self, shard: int, rows: int) -> _Window:
        sizes = self._windows.get(shard)
        if sizes is None:
            sizes = self._windows[shard] = {}
        bucket = rows.bit_length()
        window = sizes.get(bucket)
        if window is None:
            window = sizes[bucket] = _Window()
        return window
