"""The contents of a few files, read again when they change: certificates, tokens and secrets get replaced."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[int, int, int, int] | None

CHECK_SECONDS = 1.0


class WatchedFiles(Generic[T]):
    """`current` is what `read` made of `paths`. May be called from any thread; looks at most once a second.

    A new version that `read` refuses (OSError, ValueError) is logged once, and the last good one stays in use.
    """

    def __init__(
        self, name: str, paths: Sequence[Path], read: Callable[[], T], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read for the first time; `name` is what the log calls the files. Raises what `read` raises."""
        self._name = name
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._due = clock() + CHECK_SECONDS
        # Stamped before reading: a write in between then shows as a change at the next check.
        self._stamps = self._look()
        self._value = read()

    def current(self) -> T:
        """Return the contents, or the last good ones if the files are broken."""
        with self._lock:
            if (now := self._clock()) >= self._due:
                self._due = now + CHECK_SECONDS
                self._renew()
            return self._value

    def _renew(self) -> None:
        if (stamps := self._look()) == self._stamps:
            return
        self._stamps = stamps
        try:
            self._value = self._read()
        except (OSError, ValueError) as error:
            log.error("%s: cannot be used, what it said before stays in force: %s", self._name, error)
        else:
            log.info("%s: changed and read again", self._name)

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> Stamp:
    """What differs when a file was written to, replaced, or made readable."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
