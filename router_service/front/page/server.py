"""The live page's HTTP server: the page, /live, /healthz and /api, on the Front's own event loop.

It does not go through Serve's HTTP proxy, where a streamed message costs 2.3 ms; so the page also works without Ray.
"""

import asyncio
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from experts.host.watched_task import TaskWatch
from experts.timing.phase import PHASES
from router_service.front.api.cluster_service import BalanceSource, ShardDirectory
from router_service.front.api.inference_service import InferenceService
from router_service.front.auth.authenticator import Authenticator
from router_service.front.auth.tls import ServerTls
from router_service.front.config import FrontConfig, is_loopback
from router_service.front.health import FrontHealth
from router_service.front.http.assets import asset_routes
from router_service.front.http.auth import ask_for_token
from router_service.front.http.body import MAX_BODY_BYTES, openai_bodies_up_to
from router_service.front.http.guard import add_headers, check_own_page, errors_as_json
from router_service.front.http.server_sent_events import EventStream, event
from router_service.front.http.vanished import notice_vanished
from router_service.front.openai.api import OpenAiApi
from router_service.front.openai.errors import openai_errors
from router_service.front.page.domains import DomainsHandler
from router_service.front.page.generate import MAX_NEW_TOKENS, MAX_PROMPT_TOKENS, GenerateHandler
from router_service.front.page.hub import LiveHub
from router_service.front.page.snapshot import snapshot
from router_service.front.page.thinking import knows_thinking
from router_service.front.routing.router_pool import RouterPool
from router_service.protocol import inference_pb2 as pb
from router_service.text.text_model import TextModel

SHUTDOWN_SECONDS = 1.0


class LivePage:
    """Serves the page, and beside it the OpenAI API, from `start` to `stop` to callers that are authenticated.

    It does so over TLS if there are certificates.
    """

    def __init__(
        self,
        *,
        config: FrontConfig,
        text: TextModel,
        inference: InferenceService,
        router_pool: RouterPool,
        directory: ShardDirectory | None,
        balance: BalanceSource | None = None,
        health: FrontHealth,
        authenticator: Authenticator,
        tls: ServerTls | None,
        openai: OpenAiApi,
        tasks: TaskWatch | None = None,
    ) -> None:
        self.port = 0
        self.hub = LiveHub(lambda: router_pool.links, self._collect, config.max_pages, tasks=tasks)
        self._config = config
        self._text = text
        self._inference = inference
        self._router_pool = router_pool
        self._directory = directory
        self._balance = balance
        self._health = health
        self._authenticator = authenticator
        self._tls = tls
        self._openai = openai
        self._site: web.TCPSite | None = None
        self._runner = web.AppRunner(
            self._app(), access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS
        )

    async def start(self) -> int:
        """Open the port and return it.

        Raises:
            OSError: it cannot be bound.
        """
        config = self._config
        tls = self._tls.http_context() if self._tls else None
        await self._runner.setup()
        site = web.TCPSite(
            self._runner,
            host=config.http_host,
            port=config.http_port,
            ssl_context=tls,
            reuse_port=config.reuse_port or None,
        )
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            url = f"{'https' if tls else 'http'}://{config.http_host}:{config.http_port}"
            raise OSError(f"cannot listen on {url}: {error.strerror}") from error
        self._site = site
        self.port = int(self._runner.addresses[0][1])
        return self.port

    async def stop_listening(self) -> None:
        """Close the port: who is connected stays so."""
        site, self._site = self._site, None
        if site is not None:
            await site.stop()

    async def stop(self) -> None:
        """Close every page's stream and the port."""
        self.hub.close()
        await self._runner.cleanup()

    def _app(self) -> web.Application:
        config, inference, files = self._config, self._inference, asset_routes()
        guards: list[Middleware] = [
            errors_as_json,
            openai_errors,
            openai_bodies_up_to(config.max_request_bytes),
            notice_vanished(config.slow_reader_seconds),
            check_own_page(is_loopback(config.http_host)),
            ask_for_token(self._authenticator, {file.path for file in files}),
        ]
        app = web.Application(middlewares=guards, client_max_size=MAX_BODY_BYTES)
        app.on_response_prepare.append(add_headers)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/live", self._live, allow_head=False)
        app.router.add_get("/api/model", self._model)
        app.router.add_post("/api/generate", GenerateHandler(inference, self._text, config.slow_reader_seconds).serve)
        app.router.add_post("/api/domains", DomainsHandler(inference, inference.model().experts).serve)
        app.router.add_routes(files)
        app.router.add_routes(self._openai.routes())
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        status = 200 if self._health.status == "serving" else 503
        return web.Response(body=self._health.json(), content_type="application/json", status=status)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        watcher = self.hub.join()
        try:
            stream = EventStream(request, self._config.slow_reader_seconds)
            await stream.open()
            # First, because the page needs the layers and phases to draw a snapshot.
            await stream.write(event("model", msgspec.json.encode(self._describe())))
            while (frame := await watcher.take()) is not None:
                await stream.write(frame)
        finally:
            self.hub.leave(watcher)
        return stream.response

    async def _model(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._describe()), content_type="application/json")

    def _describe(self) -> dict[str, Any]:
        """What stays constant while the page is open."""
        info = self._inference.model()
        fields = {field.name: getattr(info, field.name) for field in pb.ModelInfo.DESCRIPTOR.fields}
        fields["eos_token_ids"] = list(info.eos_token_ids)
        limits = {"max_new_tokens": MAX_NEW_TOKENS, "max_prompt_tokens": MAX_PROMPT_TOKENS}
        return fields | limits | {"phases": PHASES, "thinking": knows_thinking(self._text.chat)}

    def _collect(self) -> bytes:
        known = self._directory() if self._directory is not None else ()
        now = asyncio.get_running_loop().time()
        report = self._balance() if self._balance is not None else None
        latest = snapshot(self._router_pool.links, known, now, self._health.draining, report)
        return event("snapshot", msgspec.json.encode(latest))
