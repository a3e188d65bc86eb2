"""Whether the Front can serve requests: the gRPC health service, and a status for HTTP."""

import json
import time
from collections.abc import Callable, Iterable

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]  # the stubs lack it

from router_service.front.routing.router_pool import RouterPool

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# A shard is replaced within seconds and requests wait for it meanwhile, so new ones need not be sent elsewhere.
SHARDS_AWAY_S = 5.0


class FrontHealth:
    """The Front serves while it is not draining and is connected to a router that reaches all experts.

    A router is listed for Fronts only after it has generated a token. `status` may be read on any thread, all else is
    for the event loop.
    """

    def __init__(
        self, router_pool: RouterPool, services: Iterable[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.servicer = health_aio.HealthServicer()
        self.draining = False
        self._router_pool = router_pool
        self._clock = clock
        self._services = ("", *services)
        self._complete_at = float("-inf")
        self._status = "no router is linked"

    @property
    def status(self) -> str:
        """serving, draining, "no router is linked" or "shards are missing"."""
        return self._status

    @property
    def routers(self) -> int:
        """Routers that are connected."""
        return len(self._router_pool.links)

    def json(self) -> bytes:
        """The status and the number of routers, for /healthz."""
        return json.dumps({"status": self._status, "routers": self.routers}).encode()

    async def refresh(self) -> None:
        """Update the state from the links, and notify watchers of changes."""
        self._status = self._evaluate(self._clock())
        grpc_status = SERVING if self._status == "serving" else NOT_SERVING
        for name in self._services:
            await self.servicer.set(name, grpc_status)

    async def drain(self) -> None:
        """Become NOT_SERVING permanently."""
        self.draining = True
        await self.refresh()

    def _evaluate(self, now: float) -> str:
        if self.draining:
            return "draining"
        if not self._router_pool.links:
            return "no router is linked"
        # Noted when it was last so, because a shard that is being replaced must not flap the health.
        if any(link.ready for link in self._router_pool.links):
            self._complete_at = now
        return "serving" if now - self._complete_at <= SHARDS_AWAY_S else "shards are missing"
