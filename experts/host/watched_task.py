"""Tasks of an event loop that do not end unnoticed: what `watched_thread` is for threads."""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable

log = logging.getLogger(__name__)


class TaskWatch:
    """Starts tasks and remembers which of them have failed.

    A task fails when it raises, or is cancelled from within. One that must last also fails when it returns; nothing
    replaces it, so `check` raises from then on. The others are begun anew by whoever needs them: their faults are only
    counted. One that was told to end, by its `cancel`, has not failed.

    `start` is called on the event loop, `failures` and `check` on any thread.

    Args:
        kinds: tasks that are counted from 0 on.
    """

    def __init__(self, kinds: Iterable[str] = ()) -> None:
        self._failures: Counter[str] = Counter(dict.fromkeys(kinds, 0))
        self._missing: tuple[str, ...] = ()

    @property
    def failures(self) -> dict[str, int]:
        """How many tasks have failed, by kind."""
        return dict(self._failures)

    def start(
        self, kind: str, work: Coroutine[object, object, None], name: str = "", lasts: bool = False
    ) -> asyncio.Task[None]:
        """Run `work` as a task, called `name` or else `kind`.

        Args:
            lasts: whether it must go on until it is cancelled.
        """
        self._failures.setdefault(kind, 0)  # here: the table must not grow while another thread copies it
        task = asyncio.create_task(work, name=name or kind)
        task.add_done_callback(lambda ended: self._ended(kind, ended, lasts))
        return task

    def check(self) -> None:
        """Check the tasks that must last.

        Raises:
            RuntimeError: some have ended; names them.
        """
        if missing := self._missing:
            raise RuntimeError(f"tasks have died: {', '.join(missing)}; the log says why")

    def _ended(self, kind: str, task: asyncio.Task[None], lasts: bool) -> None:
        told = task.cancelling() > 0
        error = None if task.cancelled() else task.exception()
        if error is None and (told or not (lasts or task.cancelled())):
            return
        self._failures[kind] += 1
        if lasts:
            self._missing += (task.get_name(),)
        if error is not None:
            log.error("task %s has failed", task.get_name(), exc_info=error)
        else:
            log.error("task %s has ended unexpectedly", task.get_name())
