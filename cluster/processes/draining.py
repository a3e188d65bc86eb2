"""Tells processes of an application to drain, through its registry, and waits until they have."""

import time
from collections.abc import Callable
from typing import Any

from cluster.processes import ray_calls
from cluster.processes.service_registry import Announcement, DrainOrder, registered_in

POLL_SECONDS = 0.1
# Past the grace time: orders reach processes within a second, and shards outlast the routers they serve.
MARGIN_SECONDS = 10.0


class NotDrainedError(RuntimeError):
    """Some processes had not ended what was in flight when the time was over."""


def drain(
    registry: Any,
    order: DrainOrder,
    picks: Callable[[Announcement], bool],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Drain the processes that `picks` selects; return how many there were.

    `clock` and `sleep` count seconds, and are a test's own where it must not wait.

    Raises:
        NotDrainedError: some have neither drained nor ended within the order's time and a margin.
        RayTimeoutError: the registry does not answer.
        ray.exceptions.RayError: it has died.
    """
    picked = {one.replica for one in registered_in(registry) if picks(one)}
    deadline = clock() + order.notice_s + order.grace_s + MARGIN_SECONDS
    while left := [one for one in registered_in(registry) if one.replica in picked and one.state != "drained"]:
        if clock() > deadline:
            names = ", ".join(f"{one.role} {one.replica} ({one.state})" for one in left)
            raise NotDrainedError(f"not drained in time: {names}")
        _order(registry, order, left)
        sleep(POLL_SECONDS)
    return len(picked)


def _order(registry: Any, order: DrainOrder, left: list[Announcement]) -> None:
    """Pass the order to those that have not begun. Repeated at each poll: a restarted registry has lost its orders."""
    for one in left:
        if one.state not in ("draining", "drained"):
            ray_calls.get(registry.order.remote(one.replica, order), "the registry to pass an order on")
