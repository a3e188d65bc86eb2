"""The list of a cluster's processes: each announces itself about once a second, who seeks one asks.

A named Ray actor. Public API only; nothing but this file knows how processes find each other.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from cluster.processes import ray_calls
from cluster.processes.ray_calls import RayTimeoutError
from experts.host.watched_thread import ThreadWatch
from experts.transport.address import Endpoint

log = logging.getLogger(__name__)

FORGET_SECONDS = 10.0
ANNOUNCE_SECONDS = 1.0
CLOSE_SECONDS = 5.0
WHAT = "the directory's list of processes"


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a process says of itself. `endpoint` is None while it loads; bytes are those of the weights."""

    role: str
    index: int
    replica: str
    node: str
    pid: int
    state: str
    loaded_bytes: int = 0
    total_bytes: int = 0
    endpoint: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """What a process is told: say that you end, go on for `notice_s`, then let what is in flight end in `grace_s`."""

    grace_s: float
    notice_s: float = 0.0


class ServiceRegistry:
    """The actor's body. An entry that is not renewed for ten seconds is forgotten."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, int, str], tuple[float, Announcement]] = {}
        self._orders: dict[str, DrainOrder] = {}

    def announce(self, announcement: Announcement) -> DrainOrder | None:
        """Add or renew an entry; return what its process has been told to do."""
        key = (announcement.role, announcement.index, announcement.replica)
        self._entries[key] = (time.monotonic(), announcement)
        return self._orders.get(announcement.replica)

    def order(self, replica: str, order: DrainOrder) -> None:
        """Tell a process what to do; it hears of it within a second."""
        self._orders[replica] = order

    def withdraw(self, role: str, index: int, replica: str) -> None:
        """Forget an entry."""
        self._entries.pop((role, index, replica), None)
        self._orders.pop(replica, None)

    def announcements(self) -> list[Announcement]:
        """All entries, the youngest process last."""
        horizon = time.monotonic() - FORGET_SECONDS
        self._entries = {key: entry for key, entry in self._entries.items() if entry[0] > horizon}
        return [announcement for _, announcement in self._entries.values()]


def find_directory(application: str) -> Any:
    """Return the application's directory actor; the first who asks makes it.

    Raises:
        RayTimeoutError: Ray does not answer.
    """
    options = {
        "name": f"expertmesh-directory-{application}",
        "namespace": "expertmesh",
        "get_if_exists": True,
        "lifetime": "detached",
        "max_restarts": -1,
        "num_cpus": 0,
    }
    return ray_calls.call(
        lambda: ray.remote(ServiceRegistry).options(**options).remote(), "the directory to be found or made"
    )


def known_directory(application: str) -> Any:
    """Return the application's directory actor.

    Raises:
        ValueError: there is none, so no such application runs.
        RayTimeoutError: Ray does not answer.
    """
    name = f"expertmesh-directory-{application}"
    return ray_calls.call(lambda: ray.get_actor(name, namespace="expertmesh"), f"the actor {name}")


def announced_in(directory: Any) -> list[Announcement]:
    """Return all entries of a directory actor, the youngest process last.

    Raises:
        RayTimeoutError: it does not answer.
        ray.exceptions.RayError: it has died.
    """
    found: list[Announcement] = ray_calls.get(directory.announcements.remote(), WHAT)
    return found


async def awaited_announcements(directory: Any, seconds: float = ray_calls.CALL_SECONDS) -> list[Announcement]:
    """As `announced_in`, on an event loop."""
    found: list[Announcement] = await ray_calls.await_ref(directory.announcements.remote(), WHAT, seconds)
    return found


def remove_directory(application: str) -> None:
    """End the directory actor, if there is one."""
    with contextlib.suppress(ValueError):
        directory = known_directory(application)
        ray_calls.call(lambda: ray.kill(directory), "the directory to end")


class Announcer:
    """Announces what `describe` returns, again and again, on a thread of its own.

    `told` is called there with each order, again and again too, and must hand over, not work. `threads` are the
    process's, to which this one is added.
    """

    def __init__(
        self,
        directory: Any,
        describe: Callable[[], Announcement],
        told: Callable[[DrainOrder], None],
        threads: ThreadWatch,
    ) -> None:
        self._directory = directory
        self._describe = describe
        self._told = told
        self._wake = threading.Event()
        self._closing = False
        self._thread = threads.start("announcer", self._run, lasts_until=lambda: self._closing)

    def announce_now(self) -> None:
        """Something has changed: do not wait for the next second."""
        self._wake.set()

    def close(self) -> None:
        """Stop announcing and withdraw."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=CLOSE_SECONDS)
        last = self._describe()
        try:
            ray_calls.get(
                self._directory.withdraw.remote(last.role, last.index, last.replica), "the directory to forget us"
            )
        except (RayTimeoutError, ray.exceptions.RayError) as error:
            log.warning("could not withdraw from the directory: %s", error)

    def _run(self) -> None:
        while not self._closing:
            try:
                order = ray_calls.get(
                    self._directory.announce.remote(self._describe()), "the directory to take an announcement"
                )
                if order is not None:
                    self._told(order)
            except (RayTimeoutError, ray.exceptions.RayError) as error:
                log.warning("could not announce: %s", error)
            self._wake.wait(ANNOUNCE_SECONDS)
            self._wake.clear()


def endpoints_of(announcements: list[Announcement], role: str) -> list[Endpoint]:
    """The reachable processes of a role; of several lives of one shard only the youngest."""
    ready = [a for a in announcements if a.role == role and a.endpoint is not None]
    if role == "shard":
        return [a.endpoint for a in {a.index: a for a in ready}.values() if a.endpoint is not None]
    return [a.endpoint for a in ready if a.endpoint is not None]
