"""The Front: one gRPC server, one HTTP server with page and OpenAI API, one metrics page, one pool of links."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from experts.host.watched_task import TaskWatch
from experts.host.watched_thread import ThreadWatch
from experts.transport.trust.credentials import Credentials
from router_service.front.api.admin_service import AdminActions, ClusterAdminService
from router_service.front.api.admission import Admission
from router_service.front.api.cluster_service import BalanceSource, ClusterService, ShardDirectory
from router_service.front.api.health_service import HealthService
from router_service.front.api.inference_service import InferenceService
from router_service.front.api.model_card import ModelCard
from router_service.front.arrivals import Arrivals
from router_service.front.auth.authenticator import Authenticator
from router_service.front.auth.grpc_interceptor import AuthInterceptor
from router_service.front.auth.message_interceptor import MessageInterceptor
from router_service.front.auth.tls import ServerTls
from router_service.front.config import FrontConfig
from router_service.front.grpc_server import bind, make_server
from router_service.front.health import FrontHealth
from router_service.front.kserve.service import OpenInferenceService
from router_service.front.openai.api import OpenAiApi
from router_service.front.page.hub import HUB
from router_service.front.page.server import LivePage
from router_service.front.parsing.model_parsers import WHOLE
from router_service.front.parsing.parsed import AnswerParsers
from router_service.front.routing.router_pool import LINK, POLLER, WATCHER, EndpointSource, RouterPool
from router_service.front.telemetry.balance_series import BalanceSeries
from router_service.front.telemetry.exposition import MergedCollector
from router_service.front.telemetry.metrics import FrontMetrics
from router_service.front.telemetry.metrics_opening import MetricsOpening
from router_service.front.telemetry.metrics_server import MetricsServer, Targets
from router_service.front.telemetry.request_telemetry import RequestTelemetry
from router_service.front.telemetry.tracing import open_tracer
from router_service.front.telemetry.tracing_config import TracingConfig
from router_service.protocol import cluster_pb2, inference_pb2, open_inference_pb2
from router_service.protocol.cluster_pb2_grpc import add_ClusterAdminServicer_to_server, add_ClusterServicer_to_server
from router_service.protocol.inference_pb2_grpc import add_InferenceServicer_to_server
from router_service.protocol.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from router_service.text.ignored_settings import log_ignored
from router_service.text.text_model import TextModel

SERVICES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    cluster_pb2.DESCRIPTOR.services_by_name["Cluster"].full_name,
    cluster_pb2.DESCRIPTOR.services_by_name["ClusterAdmin"].full_name,
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
# Time for streams that a drain has cut to send their last message.
FINAL_MESSAGE_S = 1.0
# When its server stops, gRPC cancels calls that have not reached us yet: wait, to refuse them with a status instead.
QUEUED_S = 0.2
# For a moment in which no call arrives.
HAND_OVER_S = 2.0


class FrontServer:
    """A Front. Create, start and drain it on one event loop.

    `endpoints` returns the routers and is called about once a second; `node` is this process's node, whose routers are
    reached by unix socket; `credentials` are the deployment's. `authenticator` authenticates callers; `tls` holds the
    certificates, None for plaintext; the live page uses both. `directory` adds shards that no router knows to
    GetCluster, and `balance` what the balancer does; `admin` acts for operators, None where there is no control plane.
    `targets` lists the metrics pages of all Fronts; `routers` is the configured number of routers. Callers' limits use
    `clock`, a drain waits by `sleep`. `threads` are those of the process. `parsers` are those of the model's answers.
    """

    def __init__(
        self,
        *,
        config: FrontConfig,
        text: TextModel,
        card: ModelCard,
        endpoints: EndpointSource,
        credentials: Credentials,
        node: str,
        directory: ShardDirectory | None = None,
        balance: BalanceSource | None = None,
        admin: AdminActions | None = None,
        targets: Targets | None = None,
        tracing: TracingConfig | None = None,
        routers: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        threads: ThreadWatch | None = None,
        parsers: AnswerParsers = WHOLE,
    ) -> None:
        self.grpc_port = 0
        self.http_port = 0
        self._config = config
        self._text = text
        self._sleep = sleep
        self.threads = threads or ThreadWatch()
        self.tasks = TaskWatch((POLLER, WATCHER, LINK, HUB))
        self.metrics = FrontMetrics(card.name, routers, (self.threads, self.tasks))
        if balance is not None:
            self.metrics.registry.register(BalanceSeries(card.name, balance))
        self._targets = targets
        self.authenticator = Authenticator(
            config.tokens_file,
            self.metrics.refused,
            clock=clock,
            max_request_bytes=config.max_request_bytes,
            api_key=config.api_key,
        )
        self.tls = ServerTls(config) if config.tls_cert else None
        self.router_pool = RouterPool(
            endpoints=endpoints,
            node=node,
            credentials=credentials,
            config=config,
            on_change=self._on_change,
            tasks=self.tasks,
        )
        self.health = FrontHealth(self.router_pool, SERVICES)
        self.health_service = HealthService(self.health, config.slow_reader_seconds)
        self._tracer = None if tracing is None else open_tracer(tracing, card.name, self.threads)
        telemetry = RequestTelemetry(self.metrics, self._tracer)
        self.admission = Admission(config.max_concurrent_streams)
        self.inference = InferenceService(
            text=text,
            card=card,
            router_pool=self.router_pool,
            config=config,
            admission=self.admission,
            telemetry=telemetry,
            parsers=parsers,
        )
        self._open_inference = OpenInferenceService(self.inference, self.health, config.slow_reader_seconds)
        self._cluster = ClusterService(card.name, self.router_pool, directory, balance)
        self._admin = ClusterAdminService(admin)
        self._arrivals = Arrivals()
        self._server: grpc.aio.Server | None = None
        self._page = MetricsOpening(config, self.tasks, self._metrics_page)
        self.live = None if config.http_port is None else self._live_page(text, directory, balance)

    def _live_page(self, text: TextModel, directory: ShardDirectory | None, balance: BalanceSource | None) -> LivePage:
        return LivePage(
            config=self._config,
            text=text,
            inference=self.inference,
            router_pool=self.router_pool,
            directory=directory,
            balance=balance,
            health=self.health,
            authenticator=self.authenticator,
            tls=self.tls,
            openai=self._openai(text),
            tasks=self.tasks,
        )

    def _openai(self, text: TextModel) -> OpenAiApi:
        return OpenAiApi(
            config=self._config,
            text=text,
            inference=self.inference,
            authenticator=self.authenticator,
            health=self.health,
            collector=self._series(),
        )

    @property
    def linked_routers(self) -> int:
        """Routers that are connected."""
        return self.health.routers

    @property
    def metrics_port(self) -> int:
        """The metrics page's, 0 while there is none."""
        return self._page.port

    @property
    def streams(self) -> int:
        """Requests that are being answered."""
        return self.admission.active

    def check_health(self) -> None:
        """Look at the threads and tasks themselves.

        Raises:
            RuntimeError: one that must last has died.
        """
        self.threads.check()
        self.tasks.check()

    async def start(self, takes_over: bool = False) -> int:
        """Open the ports and start to connect to routers; return the gRPC port. For health see `FrontHealth`.

        One that `takes_over` from another, with which it shares the API's port, opens its metrics page as soon as that
        one has closed its own: `metrics_port` is 0 until then.

        Raises:
            OSError: a port cannot be bound.
        """
        log_ignored(self._text.defaults.ignored)
        self.health.refresh()
        server = self._make_server()
        try:
            await self._page.open(takes_over)
            self.http_port = await self.live.start() if self.live is not None else 0
            self.grpc_port = bind(server, self._config, self.tls)
        except OSError:
            await self.stop()
            raise
        if self._tracer is not None:
            self._tracer.serves_at(self._config.host, self.grpc_port)
        await server.start()
        self._server = server
        self.router_pool.start()
        return self.grpc_port

    async def drain(self, grace_s: float, notice_s: float = 0.0) -> None:
        """Become NOT_SERVING, keep serving for `notice_s` so that load balancers notice, then refuse new requests, tell
        clients to reconnect elsewhere (GOAWAY), let streams in flight end within `grace_s`, and stop.
        """
        self.health.drain()
        await self._sleep(notice_s)
        self.admission.refuse()
        await self._sleep(QUEUED_S)
        await self._end(grace_s)

    async def hand_over(self, grace_s: float) -> None:
        """Stop as `drain` does, where another Front listens on the same port: nobody is to notice, and none is refused.

        Clients reconnect there; calls that are on their way when gRPC tells them so are sent there by their gRPC.
        """
        await self._page.close()
        if self.live is not None:
            await self.live.stop_listening()
        # gRPC cancels calls that it holds when it stops. Where some come all the time they are refused instead.
        if not await self._arrivals.pause(HAND_OVER_S, self._sleep):
            self.admission.refuse()
            await self._sleep(QUEUED_S)
        await self._end(grace_s)

    async def _end(self, grace_s: float) -> None:
        # Beside the drain: the server sends GOAWAY as it begins to stop, and then waits for the streams.
        closing = self.tasks.start("farewell", self._go_away(grace_s + FINAL_MESSAGE_S))
        await asyncio.sleep(0)  # it stops first: a call that reaches us before that is admitted
        self.health.drain()
        await self.admission.drain(grace_s)
        await self.stop(FINAL_MESSAGE_S)
        await closing

    async def stop(self, grace_s: float = 0.0) -> None:
        """Stop; calls that do not end within `grace_s` are cancelled. May be called more than once."""
        # Taken first: a second call, during this one's waits, finds nothing left to stop.
        server, self._server = self._server, None
        tracer, self._tracer = self._tracer, None
        live, self.live = self.live, None
        if live is not None:
            await live.stop()
        if server is not None:
            await server.stop(grace_s)
        await self.router_pool.stop()
        await self._page.close()
        if tracer is not None:
            # Closing flushes spans for up to two seconds; that must not block the event loop.
            await asyncio.to_thread(tracer.close)

    async def _go_away(self, seconds: float) -> None:
        if self._server is not None:
            await self._server.stop(seconds)

    def _metrics_page(self) -> MetricsServer:
        return MetricsServer(self._series(), self.metrics.model, self._targets, self.health)

    def _series(self) -> MergedCollector:
        return MergedCollector(self.metrics.registry, lambda: self.router_pool.reports)

    def _make_server(self) -> grpc.aio.Server:
        interceptors = [
            self._arrivals,
            AuthInterceptor(self.authenticator),
            MessageInterceptor(self.authenticator.refusals),
        ]
        server = make_server(self._config, interceptors)
        add_InferenceServicer_to_server(self.inference, server)
        add_GRPCInferenceServiceServicer_to_server(self._open_inference, server)
        add_ClusterServicer_to_server(self._cluster, server)
        add_ClusterAdminServicer_to_server(self._admin, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health_service, server)
        reflection.enable_server_reflection((*SERVICES, HEALTH, reflection.SERVICE_NAME), server)
        return server

    async def _on_change(self) -> None:
        self.metrics.routers_linked.set(len(self.router_pool.links))
        self.health.refresh()
