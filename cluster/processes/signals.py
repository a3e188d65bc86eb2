"""SIGINT and SIGTERM as a flag to poll, so that a server can drain."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Records the first signal; a second one raises KeyboardInterrupt: no more waiting, all is stopped at once."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.listen()

    def listen(self) -> None:
        """Handle both signals. To be called again after `ray.init`, which puts a handler of its own on SIGTERM."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def __call__(self) -> bool:
        """Whether a signal has come."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for a signal; return whether one has come."""
        return self._event.wait(seconds)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._event.set()
        signal.signal(number, signal.default_int_handler)


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
