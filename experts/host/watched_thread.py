"""Threads that do not die unnoticed: faults are logged with their stack and counted, a missing thread fails health."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)


class ThreadWatch:
    """Starts threads and remembers which of them have failed.

    A thread fails when its target raises. One that must last, such as a listener, also fails when it returns
    before it was asked to; nothing replaces it, so `check` raises from then on. The others, such as a connection's, are
    replaced when peers reconnect: their faults are only counted.

    Args:
        kinds: threads that are counted from 0 on.
    """

    def __init__(self, kinds: Iterable[str] = ()) -> None:
        self._failures: Counter[str] = Counter(dict.fromkeys(kinds, 0))
        self._missing: list[str] = []
        self._lock = threading.Lock()

    def count_from_zero(self, kinds: Iterable[str]) -> None:
        """Let `failures` list these kinds before the first one fails, so that their series start at 0."""
        with self._lock:
            for kind in kinds:
                self._failures.setdefault(kind, 0)

    @property
    def failures(self) -> dict[str, int]:
        """How many threads have failed, by kind."""
        with self._lock:
            return dict(self._failures)

    def start(
        self,
        kind: str,
        target: Callable[..., object],
        *args: object,
        name: str = "",
        lasts_until: Callable[[], bool] | None = None,
    ) -> threading.Thread:
        """Run `target(*args)` on a daemon thread, called `name` or else `kind`.

        Args:
            lasts_until: for a thread that must last: whether it has been asked to end.

        Raises:
            RuntimeError: the system has no thread left.
        """
        thread = threading.Thread(
            target=self._run, args=(kind, target, args, lasts_until), daemon=True, name=name or kind
        )
        thread.start()
        return thread

    def check(self) -> None:
        """Check the threads that must last.

        Raises:
            RuntimeError: some have ended; names them.
        """
        with self._lock:
            if self._missing:
                raise RuntimeError(f"threads have died: {', '.join(self._missing)}; the log says why")

    def _run(
        self,
        kind: str,
        target: Callable[..., object],
        args: tuple[object, ...],
        lasts_until: Callable[[], bool] | None,
    ) -> None:
        try:
            target(*args)
        except BaseException:  # there is no caller: whatever it is, it ends here
            # The log first: who sees the count, or is told to look into the log, finds the line there.
            try:
                log.exception("thread %s has failed", threading.current_thread().name)
            finally:
                self._note(kind, lasts=lasts_until is not None)
            return
        if lasts_until is not None and not lasts_until():
            log.error("thread %s has ended unexpectedly", threading.current_thread().name)
            self._note(kind, lasts=True)

    def _note(self, kind: str, lasts: bool) -> None:
        with self._lock:
            self._failures[kind] += 1
            if lasts:
                self._missing.append(threading.current_thread().name)
