"""Tells processes of an application to drain, through its directory, and waits until they have."""

import time
from collections.abc import Callable
from typing import Any

from cluster.processes import ray_calls
from cluster.processes.service_registry import Announcement, DrainOrder, announced_in

POLL_SECONDS = 0.1
MARGIN_SECONDS = 10.0


class NotDrainedError(RuntimeError):
    """Some processes had not ended what was in flight when the time was over."""


def drain(
    directory: Any,
    order: DrainOrder,
    whom: Callable[[Announcement], bool],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Drain the processes that `whom` picks; return how many there were.

    `clock` and `sleep` count seconds, and are a test's own where it must not wait.

    Raises:
        NotDrainedError: some have neither drained nor gone some seconds after the order's time is over.
        RayTimeoutError: the directory does not answer.
        ray.exceptions.RayError: it has died.
    """
    picked = {one.replica for one in announced_in(directory) if whom(one)}
    deadline = clock() + order.notice_s + order.grace_s + MARGIN_SECONDS
    while left := [one for one in announced_in(directory) if one.replica in picked and one.state != "drained"]:
        if clock() > deadline:
            names = ", ".join(f"{one.role} {one.replica} ({one.state})" for one in left)
            raise NotDrainedError(f"not drained in time: {names}")
        _order(directory, order, left)
        sleep(POLL_SECONDS)
    return len(picked)


def _order(directory: Any, order: DrainOrder, left: list[Announcement]) -> None:
    """Tell those that have not begun, again and again: a directory that is restarted has forgotten it."""
    for one in left:
        if one.state not in ("draining", "drained"):
            ray_calls.get(directory.order.remote(one.replica, order), "the directory to pass an order on")
