"""How many CPU threads a computation gets.

OpenMP keeps the number per calling thread, so each thread that computes must set it; and where processes share cores,
waking a second thread for a few rows can cost more than it gains. That is measured at the start.
"""

import statistics
import threading
import time
from collections.abc import Callable

import torch

FEW_ROWS = 64
ROUNDS = 7


class ComputeThreads:
    """`few` threads for up to 64 rows, `most` for more."""

    def __init__(self, few: int, most: int) -> None:
        self.few = few
        self.most = most
        self._used = threading.local()

    def use(self, rows: int) -> None:
        """Set the calling thread's number for a computation of `rows` rows."""
        wanted = self.few if rows <= FEW_ROWS else self.most
        if getattr(self._used, "number", None) != wanted:  # most calls need no change
            torch.set_num_threads(wanted)
            self._used.number = wanted


class LateThreads:
    """`ComputeThreads` for what may have nothing to compute yet: all `most` until it has been measured.

    Args:
        few_rows: a computation of few rows; False where there was nothing to compute.
        most: threads that may be used.
    """

    def __init__(self, few_rows: Callable[[], bool], most: int) -> None:
        self._few_rows = few_rows
        self._threads = ComputeThreads(most, most)
        self.measured = most == 1

    def use(self, rows: int) -> None:
        """As `ComputeThreads.use`."""
        self._threads.use(rows)

    def measure(self) -> None:
        """Measure, unless that was done or there is nothing to compute."""
        if not self.measured and self._few_rows():
            self._threads = measured_threads(self._few_rows, self._threads.most)
            self.measured = True


def measured_threads(few_rows: Callable[[], object], most: int) -> ComputeThreads:
    """Run `few_rows`, a computation of few rows, on one thread and on `most` in turn; take the faster for such."""
    if most == 1:
        return ComputeThreads(1, 1)
    times: dict[int, list[float]] = {1: [], most: []}
    for _ in range(ROUNDS):  # in turn, so that other load disturbs both alike
        for threads, seconds in times.items():
            torch.set_num_threads(threads)
            few_rows()  # starts the threads, which is not what is measured
            begun = time.perf_counter()
            few_rows()
            seconds.append(time.perf_counter() - begun)
    return ComputeThreads(min(times, key=lambda threads: statistics.median(times[threads])), most)
