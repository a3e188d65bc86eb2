"""The registry of a cluster's processes: each renews its entry once a second, and peers look each other up.

A named Ray actor, by Ray's public API only. Nothing but this file knows how processes find each other.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from cluster.balance.judging.board import BalanceBoard, NotedLoad
from cluster.balance.scaling import to_run
from cluster.processes import ray_calls
from cluster.processes.maps.askers import FORGET_SECONDS as FORGET_SECONDS
from cluster.processes.maps.map_view import ANYBODY, Asker, MapView
from cluster.processes.maps.migration import Migration
from cluster.processes.maps.placement_maps import PREPARE_SECONDS, Layout, PlacementMaps
from experts.demand import RoutedLoad
from experts.placement import Placement
from experts.transport.address import Endpoint
from router_service.protocol.balance import BalanceReport

WHAT = "the registry's list of processes"


@dataclass(frozen=True, slots=True)
class Announcement:
    """An entry: what a process reports of itself. `endpoint` is None while it loads; bytes are those of the weights.

    `epoch` is that of the placement map that the process goes by, 0 if none. `prepared` is the epoch of the coming map
    whose experts a shard holds, all of them, and `refused` that of one that it cannot prepare for, and why.
    `computed_s` are the seconds that a shard has computed since it was started. `shares_port`: a newer Front may bind
    the port of this one's API beside it.

    A process says itself when it was started (`started_ns`, wall clock, and a random `incarnation` between equal ones):
    a registry that is restarted learns of the entries in any order. Between a process and its replacement on another
    node lie seconds, by which the clocks of nodes do not differ.
    """

    role: str
    index: int
    replica: str
    node: str
    pid: int
    state: str
    loaded_bytes: int = 0
    total_bytes: int = 0
    endpoint: Endpoint | None = None
    started_ns: int = 0
    incarnation: int = 0
    epoch: int = 0
    prepared: int = 0
    refused: tuple[int, str] | None = None
    computed_s: float = 0.0
    shares_port: bool = False

    @property
    def seniority(self) -> tuple[int, int]:
        """What entries are sorted by, so that the youngest comes last."""
        return self.started_ns, self.incarnation


@dataclass(frozen=True, slots=True)
class DrainOrder:
    """An order to drain: report it, serve on for `notice_s`, then let what is in flight end within `grace_s`."""

    grace_s: float
    notice_s: float = 0.0


class ServiceRegistry:
    """The actor's body. An entry that is not renewed for ten seconds by `clock` is forgotten, and its order with it."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, restarted: Callable[[], bool] = lambda: False
    ) -> None:
        self._clock = clock
        self._maps = PlacementMaps(self.announcements, restarted, clock)
        self._entries: dict[tuple[str, int, str], tuple[float, Announcement]] = {}
        self._orders: dict[str, tuple[float, DrainOrder]] = {}
        self._board = BalanceBoard(self._routers, clock)

    def announce(self, announcement: Announcement) -> DrainOrder | None:
        """Add or renew an entry; return the order that its process has to obey, if any."""
        key = (announcement.role, announcement.index, announcement.replica)
        self._entries[key] = (self._clock(), announcement)
        _, order = self._orders.get(announcement.replica, (0.0, None))
        return order

    def order(self, replica: str, order: DrainOrder) -> None:
        """Leave an order for a process, which gets it with its next renewal."""
        self._orders[replica] = (self._clock(), order)

    def withdraw(self, role: str, index: int, replica: str) -> None:
        """Forget an entry."""
        self._entries.pop((role, index, replica), None)  # absent after a restart of this actor
        self._orders.pop(replica, None)
        self._maps.forget(replica)

    def announcements(self) -> list[Announcement]:
        """All entries, the youngest process last."""
        horizon = self._clock() - FORGET_SECONDS
        self._entries = {key: entry for key, entry in self._entries.items() if entry[0] > horizon}
        # A young order stays: after a restart of this actor it may be there before its process has renewed its entry.
        alive = {replica for _, _, replica in self._entries}
        self._orders = {
            replica: order for replica, order in self._orders.items() if replica in alive or order[0] > horizon
        }
        return sorted((one for _, one in self._entries.values()), key=lambda one: one.seniority)

    def map_view(self, layout: Layout, known: int = 0, asker: Asker = ANYBODY) -> MapView:
        """What a process is to know of the maps; see `PlacementMaps.view`."""
        return self._maps.view(layout, known, asker)

    def start_from(self, layout: Layout, placement: Placement) -> None:
        """Take the placement that the first map is to be; see `PlacementMaps.start_from`."""
        self._maps.start_from(layout, placement)

    def tell_map(self, layout: Layout, placement: Placement) -> None:
        """Take a map that a process knows; see `PlacementMaps.tell`."""
        self._maps.tell(layout, placement)

    def propose(
        self, layout: Layout, placement: Placement, basis: int, reason: str, seconds: float = PREPARE_SECONDS
    ) -> int:
        """Let shards prepare for another map; return its epoch. Raises as `PlacementMaps.propose`."""
        return self._maps.propose(layout, placement, basis, reason, seconds)

    def abandon(self, layout: Layout, epoch: int, reason: str) -> None:
        """Give up the coming map of this epoch, if there is one."""
        self._maps.abandon(layout, epoch, reason)

    def migration(self, layout: Layout) -> Migration | None:
        """The last change of placement, as it stands; None before the first."""
        return self._maps.migration(layout)

    def note_load(self, load: RoutedLoad, keep_seconds: float) -> None:
        """Keep what a router reports of its routing for so long, or until the router is gone."""
        self._board.note_load(load, keep_seconds)

    def loads(self, since: int = 0) -> list[NotedLoad]:
        """What routers have reported behind number `since`; see `BalanceBoard.loads`."""
        return self._board.loads(since)

    def note_balance(self, report: BalanceReport) -> None:
        """Keep the balancer's latest report, for Fronts and for a balancer that is restarted."""
        self._board.report = report

    def balance_report(self) -> BalanceReport | None:
        """The balancer's latest report, None before the first."""
        return self._board.report

    def want_shards(self, shards: int) -> None:
        """Set how many shards are wanted."""
        self._board.wanted = shards

    def wanted_shards(self) -> int:
        """How many shards are wanted; 0 where nobody has said, so the configuration's number."""
        return self._board.wanted

    def shards_to_run(self) -> list[int] | None:
        """The shards whose processes are to run: see `to_run`. None while nobody has said how many are wanted, or this
        registry has been restarted and may not have heard of all: then all stay.
        """
        maps = self._maps.needed()
        if not self._board.wanted or maps is None:
            return None
        there = {one.index for one in self.announcements() if one.role == "shard"}
        return sorted(to_run(self._board.wanted, maps[0], there, maps[1]))

    def _routers(self) -> set[str]:
        return {one.replica for one in self.announcements() if one.role == "router"}


def find_registry(application: str) -> Any:
    """Return the application's registry actor; the first caller creates it.

    Raises:
        RayTimeoutError: Ray does not answer.
    """
    options = {
        "name": registry_name(application),
        "namespace": "expertmesh",
        "get_if_exists": True,
        "lifetime": "detached",  # it outlives the replica that created it
        "max_restarts": -1,
        "num_cpus": 0,  # it must be placed even on a full cluster
    }
    return ray_calls.call(
        lambda: ray.remote(ServiceRegistry).options(**options).remote(restarted=_was_restarted),
        "the registry to be found or created",
    )


def registry_name(application: str) -> str:
    """The name of the application's registry actor, in the namespace `expertmesh`."""
    return f"expertmesh-registry-{application}"


def _was_restarted() -> bool:
    """Whether this actor has been started again."""
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def known_registry(application: str) -> Any:
    """Return the application's registry actor.

    Raises:
        ValueError: there is none, so no such application runs.
        RayTimeoutError: Ray does not answer.
    """
    name = registry_name(application)
    return ray_calls.call(lambda: ray.get_actor(name, namespace="expertmesh"), f"the actor {name}")


def registered_in(registry: Any, seconds: float = ray_calls.CALL_SECONDS) -> list[Announcement]:
    """Return all entries of a registry actor, the youngest process last.

    Raises:
        RayTimeoutError: it does not answer.
        ray.exceptions.RayError: it has died.
    """
    found: list[Announcement] = ray_calls.get(registry.announcements.remote(), WHAT, seconds)
    return found


async def await_registered(registry: Any, seconds: float = ray_calls.CALL_SECONDS) -> list[Announcement]:
    """As `registered_in`, on an event loop."""
    found: list[Announcement] = await ray_calls.await_ref(registry.announcements.remote(), WHAT, seconds)
    return found


def remove_registry(application: str) -> None:
    """End the registry actor, if there is one."""
    with contextlib.suppress(ValueError):
        registry = known_registry(application)
        ray_calls.call(lambda: ray.kill(registry), "the registry to end")


def endpoints_of(announcements: list[Announcement], role: str) -> list[Endpoint]:
    """The reachable processes of a role; of a restarted shard only the youngest entry."""
    ready = [a for a in announcements if a.role == role and a.endpoint is not None]
    if role == "shard":
        return [a.endpoint for a in {a.index: a for a in ready}.values() if a.endpoint is not None]
    return [a.endpoint for a in ready if a.endpoint is not None]
