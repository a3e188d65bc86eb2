"""Keeps faults of observers (statistics, summaries, logs) from requests."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

log = logging.getLogger(__name__)

OBSERVERS = ("statistics", "summaries", "step_log", "activity", "request_log", "stall_log", "observe", "proof")


class Guard:
    """`with guard(name):` runs an observer. What it raises is logged (rate-limited as any message) and counted in
    `faults` under its name; then execution continues after the block.
    """

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter(dict.fromkeys(OBSERVERS, 0))

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Catch, log and count what the block raises."""
        try:
            yield
        except Exception:
            self.faults[name] += 1
            with suppress(Exception):  # the log itself may be what is broken
                log.exception("an observer failed (%s), what it watches goes on", name)
