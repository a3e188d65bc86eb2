"""Whether computations get on, told from outside of the thread that computes: a slow one does, a deadlock does not.

A computation that only took long would be no fault: a prompt's layer may take seconds on a loaded machine. While one
runs its thread uses CPU time, which any thread can read (pthread_getcpuclockid(3)).
"""

import threading
import time
from collections.abc import Callable


class Progress:
    """A number that never falls: one more for each step, and for each millisecond of CPU time of a running computation.

    `begin`, `step` and `end` are the computing thread's, one at a time, and cost next to nothing; any may `sample`.

    Args:
        clock_ns: when it last grew, for `still_since_ns`.
        cpu_ns: the time of a CPU clock.
    """

    def __init__(
        self,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        cpu_ns: Callable[[int], int] = time.clock_gettime_ns,
    ) -> None:
        self._clock_ns = clock_ns
        self._cpu_ns = cpu_ns
        self._running: int | None = None  # the CPU clock of the computing thread
        self._steps = 0
        self._lock = threading.Lock()
        self._total = 0
        self._seen_steps = 0
        self._seen_ms = 0
        self._still_since_ns = 0

    def begin(self) -> None:
        """The calling thread begins to compute."""
        # A clock's id is valid in any thread, and safe to read after its thread has ended; a thread's own id is not.
        self._running = time.pthread_getcpuclockid(threading.get_ident())

    def step(self) -> None:
        """A part has been done."""
        self._steps += 1

    def end(self) -> None:
        """The computation has ended, well or not."""
        self._running = None
        self._steps += 1

    def sample(self) -> int:
        """The number now."""
        with self._lock:
            steps, used_ms = self._steps, self._used_ms(self._running)
            grown = steps - self._seen_steps
            if grown == 0:
                grown = max(0, used_ms - self._seen_ms)
            if grown:
                self._seen_steps, self._seen_ms = steps, used_ms
                self._total += grown
                self._still_since_ns = self._clock_ns()
            return self._total

    @property
    def still_since_ns(self) -> int:
        """Since when samples have found the same number."""
        return self._still_since_ns

    def _used_ms(self, clock: int | None) -> int:
        try:
            return 0 if clock is None else self._cpu_ns(clock) // 1_000_000
        except OSError:  # its thread has just ended
            return 0
