"""What needs no token: /health, /ping, /version and /metrics."""

from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from router_service.front.health import FrontHealth
from router_service.front.openai.replies import object_reply
from router_service.front.telemetry.metrics_server import bounded, metrics_page


class VersionReply(msgspec.Struct, frozen=True):
    """The version of the server."""

    version: str


class HealthReply(msgspec.Struct, frozen=True):
    """Whether requests can be served (`serving`) or why not, and how many routers are connected."""

    status: str
    routers: int


class ServerPages:
    """Says how the server is. `collector` has what the metrics page has."""

    def __init__(self, health: FrontHealth, collector: Collector) -> None:
        self._health = health
        self._registry = CollectorRegistry()
        self._registry.register(collector)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes; /ping is SageMaker's name for /health, by either method."""
        return [
            web.get("/health", self._healthy),
            web.get("/ping", self._healthy),
            web.post("/ping", self._healthy),
            web.get("/version", self._version),
            web.get("/metrics", bounded(metrics_page(self._registry))),
        ]

    async def _healthy(self, _: web.Request) -> web.Response:
        """200 while requests can be served, else 503 with the reason; the body is that of /healthz."""
        status = HTTPStatus.OK if self._health.serving else HTTPStatus.SERVICE_UNAVAILABLE
        return web.Response(body=self._health.json(), status=status, content_type="application/json")

    @staticmethod
    async def _version(_: web.Request) -> web.Response:
        return object_reply(VersionReply(installed_version()))


def installed_version() -> str:
    """Return the version of the package, "unknown" where it is run without being installed."""
    try:
        return version("expertmesh")
    except PackageNotFoundError:
        return "unknown"
