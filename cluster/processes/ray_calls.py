"""Calls of Ray with a time limit; the error says what was waited for and how long.

Most calls of Ray and Serve have no limit of their own, and wait for as long as the head of the cluster does not answer.
"""

import asyncio
import atexit
import queue
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

import ray

# Of calls to an actor of ours, which only looks up a table.
CALL_SECONDS = 5.0
# Serve's controller is asked here, which starts processes meanwhile.
SERVE_SECONDS = 60.0
# Ray has limits of its own here, with better messages; these are for when they fail.
START_SECONDS = 300.0
LEAVE_SECONDS = 60.0
# How often whoever waits looks whether there is a reason not to.
LOOK_SECONDS = 0.1

T = TypeVar("T")


class RayTimeoutError(RuntimeError):
    """Ray did not answer in time; the message says what was waited for and how long."""


def _late(what: str, seconds: float) -> RayTimeoutError:
    return RayTimeoutError(f"Ray did not answer: waited {seconds:g} s for {what}")


def get(ref: Any, what: str, seconds: float = CALL_SECONDS) -> Any:
    """Return what an object reference stands for.

    Raises:
        RayTimeoutError: not within `seconds`.
        ray.exceptions.RayError: the actor died, or the call failed there.
    """
    try:
        return ray.get(ref, timeout=seconds)
    except ray.exceptions.GetTimeoutError as error:
        raise _late(what, seconds) from error


async def await_ref(ref: Awaitable[Any], what: str, seconds: float = CALL_SECONDS) -> Any:
    """As `get`, on an event loop."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await ref
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise _late(what, seconds) from error


def call(work: Callable[[], T], what: str, seconds: float = CALL_SECONDS, go_on: Callable[[], None] | None = None) -> T:
    """Return what `work` returns, a blocking call without a limit of its own; past `seconds` it is left to itself.

    It runs on a thread that lives as long as the process: Ray ties what it starts to the thread that started it.

    Args:
        go_on: called some times a second while it is waited for; what it raises ends the wait.

    Raises:
        RayTimeoutError: not within `seconds`.
    """
    done: Future[T] = Future()
    _idle_thread().put((work, done))
    deadline = time.monotonic() + seconds
    while not wait([done], seconds if go_on is None else min(seconds, LOOK_SECONDS)).done:
        if time.monotonic() >= deadline:
            raise _late(what, seconds)
        if go_on is not None:
            go_on()
    return done.result()


def leave(seconds: float = LEAVE_SECONDS) -> None:
    """End Ray where it was started here, or leave it. If that does not end, Ray is not waited for at the exit either.

    Raises:
        RayTimeoutError: not within `seconds`; what Ray started here ends with this process.
    """
    try:
        call(ray.shutdown, "it to end", seconds)
    except RayTimeoutError:
        atexit.unregister(ray.shutdown)
        raise


# Each thread takes its calls from its own queue. A thread that is stuck is not idle: the next call gets another.
CallQueue = queue.SimpleQueue[tuple[Callable[[], Any], "Future[Any]"]]
_idle: queue.SimpleQueue[CallQueue] = queue.SimpleQueue()


def _idle_thread() -> CallQueue:
    """The queue of a thread that waits for a call; starts one if there is none."""
    try:
        return _idle.get_nowait()
    except queue.Empty:
        calls: CallQueue = queue.SimpleQueue()
        # No watch counts these threads: the shell's commands have them too, and no process's watch is there yet. What
        # a call raises is its caller's; one that is lost costs its caller the time limit, the next gets another thread.
        threading.Thread(target=_serve, args=(calls,), daemon=True, name="calls Ray").start()
        return calls


def _serve(calls: CallQueue) -> None:
    while True:
        work, done = calls.get()
        try:
            result = work()
        except BaseException as error:  # whatever it is, it is the caller's to handle
            _idle.put(calls)
            done.set_exception(error)
        else:
            _idle.put(calls)
            done.set_result(result)
        del work, done  # they would stay referenced while the thread waits for its next call
