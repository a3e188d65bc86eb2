"""Keeps a frequent message from filling the log: the first lines of an interval pass, then only their number."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

# Messages are templates, so there are few. A library that formats its own texts must not make this table grow.
MAX_MESSAGES = 1024

Key = tuple[str, int, str]


@dataclass(slots=True)
class Window:
    """An interval of one message: when it began, lines seen."""

    began: float
    seen: int = 0


class LogLimit(logging.Filter):
    """Passes the first `burst` lines of a (logger, level, template) in each interval.

    How many were held back is said by a line of its own through `handle` as soon as anything is logged after the
    interval.
    """

    def __init__(
        self,
        handle: Callable[[logging.LogRecord], object],
        burst: int,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._handle = handle
        self._burst = burst
        self._interval_s = interval_s
        self._clock = clock
        self._windows: dict[Key, Window] = {}
        self._next_sweep = 0.0
        self._lock = threading.Lock()

    @property
    def messages(self) -> int:
        """How many messages' intervals are remembered."""
        return len(self._windows)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write `record`."""
        if hasattr(record, "held_back"):  # our own line about held-back lines, which comes through here too
            return True
        key, now = (record.name, record.levelno, str(record.msg)), self._clock()
        with self._lock:
            over = self._sweep(now) if now >= self._next_sweep or len(self._windows) >= MAX_MESSAGES else []
            window = self._windows.setdefault(key, Window(now))
            if now - window.began >= self._interval_s:
                over.append((key, window))
                window = self._windows[key] = Window(now)
            window.seen += 1
            passes = window.seen <= self._burst
        for ended, its_window in over:
            self._log_held_back(ended, its_window.seen - self._burst)
        return passes

    def _sweep(self, now: float) -> list[tuple[Key, Window]]:
        """Take out the windows that have ended; all of them, where there are too many."""
        self._next_sweep = now + self._interval_s
        crowded = len(self._windows) >= MAX_MESSAGES
        ended = [(key, w) for key, w in self._windows.items() if crowded or now - w.began >= self._interval_s]
        for key, _ in ended:
            del self._windows[key]
        return ended

    def _log_held_back(self, key: Key, held_back: int) -> None:
        if held_back <= 0:
            return
        name, level, message = key
        values = {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "held_back": held_back}
        text = f"held back {held_back} lines: {message}"
        self._handle(logging.makeLogRecord(values | {"msg": text, "fields": {"held_back": held_back}}))
