"""The metrics port: `/metrics` for a scrape, `/sd` for Prometheus' HTTP service discovery (http_sd), `/healthz`.

It speaks plain HTTP and requires no token, so that a kubelet can probe the Front even if the API uses TLS.
"""

import asyncio
import errno
import json
import socket
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from router_service.front.health import FrontHealth

# Returns HOST:PORT of each metrics page; called on a thread, since it may call Ray.
Targets = Callable[[], Iterable[str]]
Page = Callable[[web.Request], Awaitable[web.Response]]

UNKNOWN = "only /metrics, /sd and /healthz are served here\n"
# Prometheus' default scrape timeout.
PAGE_SECONDS = 10.0
SHUTDOWN_SECONDS = 1.0


class MetricsServer:
    """Serves the pages over HTTP from `start` to `stop`, on the running event loop.

    Pages are made on threads, so that a scrape of many series does not hold up streams.
    """

    def __init__(
        self,
        collector: Collector,
        model: str,
        targets: Targets | None = None,
        health: FrontHealth | None = None,
    ) -> None:
        """Without `targets`, `/sd` lists this page only; without `health` there is no `/healthz`."""
        self.port = 0
        self._host = ""
        registry = CollectorRegistry()
        registry.register(collector)
        listed = targets if targets is not None else lambda: [f"{self._host}:{self.port}"]
        pages = {"/metrics": metrics_page(registry), "/sd": discovery(listed, model)}
        if health is not None:
            pages["/healthz"] = health_page(health)
        app = web.Application()
        app.add_routes([web.get(path, bounded(page)) for path, page in pages.items()])
        app.router.add_route("*", "/{unknown:.*}", _unknown)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)

    async def start(self, host: str, port: int, ports: int = 1) -> int:
        """Bind the first free of `ports` ports from `port` on, or any free one if `port` is 0. Return the port.

        Raises:
            OSError: all are taken, or the address is not of this machine.
        """
        taken = _listen(host, range(port, port + ports) if port else range(1))
        self._host, self.port = host, taken.getsockname()[1]
        await self._runner.setup()
        await web.SockSite(self._runner, taken).start()
        return self.port

    async def stop(self) -> None:
        """Close the port and the connections."""
        await self._runner.cleanup()


def metrics_page(registry: CollectorRegistry) -> Page:
    """Serve the series in the format that the scraper accepts."""

    async def serve(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        # Encoding thousands of series takes a while, during which streams must go on.
        body = await asyncio.to_thread(encode, registry)
        response = web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})
        response.enable_compression()
        return response

    return serve


def discovery(targets: Targets, model: str) -> Page:
    """Serve the scrape targets. The model is a meta label: a plain one would clash with the label of the series."""

    async def serve(_: web.Request) -> web.Response:
        listed = await asyncio.to_thread(lambda: sorted(targets()))
        groups = [{"targets": listed, "labels": {"__meta_expertmesh_model": model}}]
        return web.Response(body=json.dumps(groups).encode(), content_type="application/json")

    return serve


def health_page(health: FrontHealth) -> Page:
    """Return 200 while the Front serves, else 503, with its state and the number of routers as JSON."""

    async def serve(_: web.Request) -> web.Response:
        status = HTTPStatus.OK if health.status == "serving" else HTTPStatus.SERVICE_UNAVAILABLE
        headers = {hdrs.CACHE_CONTROL: "no-store"}
        return web.Response(body=health.json(), status=status, content_type="application/json", headers=headers)

    return serve


def bounded(page: Page, seconds: float = PAGE_SECONDS) -> Page:
    """Return 503 if `page` takes longer than `seconds`."""

    async def serve(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(seconds):
                return await page(request)
        except TimeoutError:
            text = f"{request.path} was not ready within {seconds:g} s\n"
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=text)

    return serve


async def _unknown(_: web.Request) -> web.Response:
    return web.Response(status=HTTPStatus.NOT_FOUND, text=UNKNOWN)


def _listen(host: str, ports: range) -> socket.socket:
    """Return a listening socket, IPv4 or IPv6 as the address, on the first free one of `ports`."""
    for port in ports:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            return socket.create_server((host, port), family=family)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == ports[-1]:
                raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    raise ValueError(f"{ports} has no port")
