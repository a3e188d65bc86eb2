"""Work that is to disturb nobody: on a thread of its own, behind everything else that wants the cores."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
# The thread takes the interpreter's lock now and then, and others wait while it has it: further behind, it would be
# left without a core for so long that they noticed.
NICENESS = 10


def run_behind(work: Callable[[], Result], name: str) -> Result:
    """Return what `work()` returns, or raise what it raises, once a thread of low priority has done it.

    On Linux a thread has a niceness of its own; elsewhere it runs like any other.

    Raises:
        RuntimeError: the system has no thread left.
    """
    results: list[Result] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            step_back()
            results.append(work())
        except BaseException as error:  # the caller's to handle
            faults.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join()
    try:
        if faults:
            raise faults[0]
        return results[0]
    finally:
        faults.clear()  # or the traceback keeps this frame, and the frame the traceback


def step_back() -> None:
    """Give the calling thread a low priority, for good: to raise it again takes a right that few processes have."""
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):  # a lower priority is always allowed, but for odd sandboxes
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _niceness())


def _niceness() -> int:
    """Ours, but never before that of the process."""
    return max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
