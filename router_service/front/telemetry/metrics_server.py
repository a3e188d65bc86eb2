"""The metrics port: `/metrics` for a scrape, `/sd` for Prometheus' HTTP service discovery (http_sd), `/healthz`.

It speaks plain HTTP and asks for no token, so that a kubelet can ask how the Front is also where the API has TLS.
"""

import asyncio
import errno
import json
import socket
from collections.abc import Callable, Iterable
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from router_service.front.health import FrontHealth

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Returns HOST:PORT of each page that Prometheus must read; called on the threads that serve pages.
Targets = Callable[[], Iterable[str]]

UNKNOWN = b"only /metrics, /sd and /healthz are served here\n"


class MetricsServer:
    """Serves the pages over HTTP from a thread of its own."""

    def __init__(
        self,
        collector: Collector,
        host: str,
        port: int,
        model: str,
        targets: Targets | None = None,
        health: FrontHealth | None = None,
        ports: int = 1,
    ) -> None:
        """Bind the first free one of `ports` ports from `port` on and serve; a port of 0 picks any free one. Without
        `targets` this page is the only one.

        Raises:
            OSError: all are taken, or the address is not ours.
        """
        registry = CollectorRegistry()
        registry.register(collector)
        listed = targets if targets is not None else lambda: [f"{host}:{self.port}"]
        apps = {"/metrics": make_wsgi_app(registry), "/sd": discovery(listed, model)}
        app = pages(apps if health is None else apps | {"/healthz": health_page(health)})
        self._server = _listen(host, range(port, port + ports) if port else range(1), app)
        self.port: int = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, daemon=True, name="metrics page")
        self._thread.start()

    async def stop(self) -> None:
        """Close the port and end the thread."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()
        self._thread.join()


def pages(apps: "dict[str, WSGIApplication]") -> "WSGIApplication":
    """Serve each path by its application, any other path by a 404 that names those there are."""

    def serve(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        app = apps.get(environ["PATH_INFO"])
        if app is not None:
            return app(environ, start)
        start("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [UNKNOWN]

    return serve


def discovery(targets: Targets, model: str) -> "WSGIApplication":
    """List the scrape targets. The model is a meta label: a plain one would clash with the label of the series."""

    def serve(_: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        groups = [{"targets": sorted(targets()), "labels": {"__meta_expertmesh_model": model}}]
        start("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(groups).encode()]

    return serve


def health_page(health: FrontHealth) -> "WSGIApplication":
    """Answer 200 while the Front serves, else 503; either with the word and the number of routers as JSON."""

    def serve(_: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        status = "200 OK" if health.word == "serving" else "503 Service Unavailable"
        start(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
        return [health.json()]

    return serve


def _listen(host: str, ports: range, app: "WSGIApplication") -> WSGIServer:
    """A server on the first of `ports` that is free."""
    for port in ports:
        try:
            return make_server(host, port, app, _server_class(host, port), handler_class=_Silent)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == ports[-1]:
                raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    raise ValueError(f"{ports} has no port")


def _server_class(host: str, port: int) -> type[WSGIServer]:
    """A threading server of the address's own family, IPv4 or IPv6."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    return type("MetricsWSGIServer", (ThreadingWSGIServer,), {"address_family": family})


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is no news."""
