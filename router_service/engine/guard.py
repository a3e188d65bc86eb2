"""Keeps what only watches (statistics, summaries, logs) from hurting what it watches."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

log = logging.getLogger(__name__)

OBSERVERS = ("statistics", "summaries", "step_log", "activity", "request_log", "stall_log", "observe")


class Guard:
    """`with guard(name):` runs an observer. Its fault is logged, at most as often as the log lets any message pass, and
    counted in `faults` under its name; then the code behind goes on.
    """

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter(dict.fromkeys(OBSERVERS, 0))

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Guard what is done inside."""
        try:
            yield
        except Exception:
            self.faults[name] += 1
            with suppress(Exception):  # the log itself may be what is broken
                log.exception("an observer failed (%s), what it watches goes on", name)
