"""Tells processes of an application to drain, through its registry, and waits until they have."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import ray

from cluster.processes import ray_calls
from cluster.processes.known_processes import Absences
from cluster.processes.service_registry import Announcement, DrainOrder, registered_in

log = logging.getLogger(__name__)

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
        NotDrainedError: some have neither drained nor ended within the order's time and a margin, as far as the
            registry, which may die meanwhile, has told.
        RayTimeoutError: the registry does not answer at first.
        ray.exceptions.RayError: it has died before.
    """
    left = {one.replica: one for one in registered_in(registry) if picks(one)}
    picked, absences = len(left), Absences(clock)
    deadline = clock() + order.notice_s + order.grace_s + MARGIN_SECONDS
    while left := _still_draining(registry, left, absences):
        if clock() > deadline:
            names = ", ".join(f"{one.role} {one.replica} ({one.state})" for one in left.values())
            raise NotDrainedError(f"not drained in time: {names}")
        _order(registry, order, left.values())
        sleep(POLL_SECONDS)
    return picked


def _still_draining(registry: Any, left: dict[str, Announcement], absences: Absences) -> dict[str, Announcement]:
    """Those of `left` that have neither drained nor gone; all of them while the registry does not answer."""
    try:
        listed = {one.replica: one for one in registered_in(registry)}
    except (ray_calls.RayTimeoutError, ray.exceptions.RayError) as error:
        log.warning("the registry does not answer, the drain goes on: %s", error)
        return left
    gone = absences.gone(left, listed)
    now = {replica: listed.get(replica, one) for replica, one in left.items() if replica not in gone}
    return {replica: one for replica, one in now.items() if one.state != "drained"}


def _order(registry: Any, order: DrainOrder, left: Iterable[Announcement]) -> None:
    """Pass the order to those that have not begun. Repeated at each poll: a restarted registry has lost its orders."""
    with contextlib.suppress(ray_calls.RayTimeoutError, ray.exceptions.RayError):
        for one in left:
            if one.state not in ("draining", "drained"):
                ray_calls.get(registry.order.remote(one.replica, order), "the registry to pass an order on")
