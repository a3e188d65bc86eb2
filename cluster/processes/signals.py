"""SIGINT and SIGTERM as a flag to poll, so that a server can drain."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# `timeout` and the like signal a process and then its group: one wish, two signals.
REPEAT_SECONDS = 1.0


class StartInterruptedError(Exception):
    """A signal came while something was waited for."""


class Interrupts:
    """Records the first signal; a later one raises KeyboardInterrupt: no more waiting, all is stopped at once.

    `clock` counts seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._event = threading.Event()
        self._clock = clock
        self._first = 0.0
        self.listen()
        # Held back while another try of a start took the last one's place.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

    def listen(self) -> None:
        """Handle both signals. To be called again after `ray.init`, which puts a handler of its own on SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def __call__(self) -> bool:
        """Whether a signal has come; one that `sigterm_held` holds back counts."""
        return self._event.is_set() or signal.SIGTERM in signal.sigpending()

    def wait(self, seconds: float) -> bool:
        """Wait for a signal; return whether one has come."""
        return self._event.wait(seconds)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._event.is_set():
            self._first = self._clock()
            self._event.set()
        elif self._clock() - self._first > REPEAT_SECONDS:
            signal.default_int_handler(number, frame)


@contextmanager
def sigterm_held() -> Iterator[None]:
    """Let this thread's SIGTERM wait until the block ends. What it starts meanwhile never gets one.

    Masks are inherited. `timeout` and systemd signal the whole process group: if Ray's processes ended at once, no
    stream could finish. They end when we stop them, or with us.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
