"""The registry as the balancer sees it: each call bounded in time."""

from typing import Any

from cluster.balance.judging.board import NotedLoad
from cluster.processes import ray_calls
from cluster.processes.maps.map_view import MapView
from cluster.processes.maps.migration import Migration
from cluster.processes.maps.placement_maps import Layout
from cluster.processes.service_registry import Announcement, registered_in
from experts.placement import Placement
from router_service.protocol.balance import BalanceReport

WHAT = "the registry, for the balancer"


class BalanceDesk:
    """Asks `registry` about the maps of one layout, and what it keeps for the balancer.

    Each method raises RayTimeoutError or ray.exceptions.RayError where the registry does not answer.
    """

    def __init__(self, registry: Any, layout: Layout) -> None:
        self._registry = registry
        self.layout = layout

    def shards(self) -> dict[int, Announcement]:
        """The youngest entry of each shard."""
        return {one.index: one for one in registered_in(self._registry) if one.role == "shard"}

    def loads(self, since: int) -> list[NotedLoad]:
        """The routers' reports behind number `since`."""
        found: list[NotedLoad] = self._get(self._registry.loads.remote(since))
        return found

    def view(self, known: int) -> MapView:
        """The current map, if its epoch is over `known`."""
        found: MapView = self._get(self._registry.map_view.remote(self.layout, known))
        return found

    def migration(self) -> Migration | None:
        """How far the last change of placement is."""
        found: Migration | None = self._get(self._registry.migration.remote(self.layout))
        return found

    def propose(self, placement: Placement, basis: int, reason: str, seconds: float) -> int:
        """Propose a placement; return its epoch. Raises MigrationRefusedError, see `PlacementMaps.propose`."""
        epoch: int = self._get(self._registry.propose.remote(self.layout, placement, basis, reason, seconds))
        return epoch

    def note(self, report: BalanceReport) -> None:
        """Leave the balancer's report for Fronts, and for the balancer that comes after this one."""
        self._get(self._registry.note_balance.remote(report))

    def report(self) -> BalanceReport | None:
        """The latest report of this balancer or one before it."""
        found: BalanceReport | None = self._get(self._registry.balance_report.remote())
        return found

    def want(self, shards: int) -> None:
        """Set how many shards are wanted."""
        self._get(self._registry.want_shards.remote(shards))

    def wanted(self) -> int:
        """How many shards are wanted, 0 if nobody has said."""
        found: int = self._get(self._registry.wanted_shards.remote())
        return found

    def _get(self, ref: Any) -> Any:
        return ray_calls.get(ref, WHAT)
