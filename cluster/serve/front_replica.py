"""A Front as a Serve deployment."""

import asyncio
import os
from dataclasses import replace
from typing import Any

from cluster.config import config_from
from cluster.planner.model import open_model
from cluster.processes.known_processes import KnownProcesses
from cluster.processes.process import node_id, reachable_host, replica_id
from cluster.processes.registered_process import RegisteredProcess
from cluster.processes.service_registry import Announcement, DrainOrder, endpoints_of
from cluster.serve.admin.balancer_calls import BalancerCalls
from cluster.serve.admin.known_balance import KnownBalance
from cluster.serve.deployments import end
from cluster.serve.security import credentials_of
from cluster.serve.update.takeover import elders, has_follower, shares_port
from experts.transport.address import Endpoint, new_incarnation
from router_service.front.parsing.model_parsers import model_parsers
from router_service.front.port_check import check_free
from router_service.front.server import FrontServer
from router_service.protocol.messages import ShardReport
from router_service.text.text_model import load_text_model

FRONT_POLL_SECONDS = 0.5
# Of the notice of a drain, so that clients reconnect within it; gRPC varies a connection's age by a tenth.
CONNECTION_AGE_SHARE = 0.8


class FrontReplica:
    """One Front: the API. It starts at the first health check, on the event loop that will drive it."""

    def __init__(
        self, data: dict[str, Any], secret: bytes, digest: bytes, *_: Any, balancer: Any = None, api_key: str = ""
    ) -> None:
        config = config_from(data)
        self._process = RegisteredProcess("front", 0, config, self._drain)
        self._known = KnownProcesses(self._process.registry)
        self._balance = KnownBalance(self._process.registry, config.balance)
        self._config, self._front = config.cluster, config.front
        self._shared = shares_port(config)
        with self._process.loading():
            model = open_model(config.model, config.weights, computes_here=False)
            self._process.go_on()
            text = load_text_model(model.plan.checkpoint.path, self._front.chat_template, self._front.template_kwargs)
        self._metrics_host = reachable_host(config.front.metrics_host)
        self._server = FrontServer(
            config=replace(
                config.front,
                api_key=api_key,
                poll_seconds=FRONT_POLL_SECONDS,
                checksum=config.experts.checksum,
                reuse_port=self._shared or config.front.reuse_port or config.cluster.fronts > 1,
                connection_age_seconds=config.front.connection_age_seconds
                or CONNECTION_AGE_SHARE * config.cluster.drain_notice_seconds,
                metrics_ports=config.front.metrics_ports if config.cluster.address else config.cluster.fronts,
            ),
            text=text,
            card=model.card(),
            endpoints=self._routers,
            credentials=credentials_of(config, secret, digest),
            node=node_id(),
            directory=self._known_shards,
            balance=self._balance.report,
            admin=None if balancer is None else BalancerCalls(balancer),
            targets=self._metrics_targets,
            tracing=config.tracing,
            routers=config.cluster.routers,
            threads=self._process.threads,
            parsers=model_parsers(model.card().family, text, config.front),
        )
        self._started = asyncio.Lock()
        self._running = False
        self._page_port = 0

    async def status(self) -> dict[str, Any]:
        """Ports, how many routers are linked, and how far the other processes are."""
        await self._start()
        announcements = await self._known.await_answer()
        return {
            "grpc_port": self._server.grpc_port,
            "metrics_port": self._server.metrics_port,
            "http_port": self._server.http_port,
            "routers": self._server.linked_routers,
            "announcements": announcements,
        }

    async def check_health(self) -> None:
        """Called by Serve once a second; the first time it starts the server."""
        self._server.check_health()
        await self._start()
        if self._page_port != self._server.metrics_port and (page := self._metrics_page()) is not None:
            self._page_port = page.port
            self._process.reached_at(page)

    async def __del__(self) -> None:
        """Called by Serve when it stops the replica."""
        # Serve also calls this when `__init__` has failed half-way.
        if getattr(self, "_running", False):
            await end(self._process, lambda: None, self._config)
            await self._server.stop()
        elif hasattr(self, "_process"):
            await asyncio.to_thread(self._process.close)

    async def _start(self) -> None:
        async with self._started:  # a health check and a status call may come together
            if not self._running:
                self._loop = asyncio.get_running_loop()
                await self._server.start(await self._takes_over())
                self._running = True
                self._page_port = self._server.metrics_port
                self._process.ready(self._metrics_page(), shares_port=self._shared)

    async def _takes_over(self) -> bool:
        """Whether an older Front of this cluster listens here. Where none does, the ports that may be shared are free.

        Raises:
            OSError: somebody else listens on one.
        """
        if not self._shared:
            return False
        if elders(await self._known.await_answer(), replica_id(), node_id()):
            return True
        if not self._front.reuse_port and self._config.fronts == 1:
            check_free(self._front.host, self._front.grpc_port)
            check_free(self._front.http_host, self._front.http_port or 0)
        return False

    def _metrics_page(self) -> Endpoint | None:
        if not self._server.metrics_port:
            return None
        return Endpoint(
            role="front",
            index=0,
            replica=replica_id(),
            incarnation=new_incarnation(),
            node=node_id(),
            host=self._metrics_host,
            port=self._server.metrics_port,
            unix_name="",
            pid=os.getpid(),
        )

    def _drain(self, order: DrainOrder) -> None:
        if has_follower(self._known.ask(), replica_id()):
            drain = self._server.hand_over(order.grace_s)
        else:
            drain = self._server.drain(order.grace_s, order.notice_s)
        asyncio.run_coroutine_threadsafe(drain, self._loop).result()

    async def _routers(self) -> list[Endpoint]:
        # At once, and bounded alike: the report keeps nobody from hearing of the routers.
        announcements, _ = await asyncio.gather(self._known.await_answer(), self._balance.ask())
        return endpoints_of(announcements, "router")

    def _metrics_targets(self) -> list[str]:
        return [f"{page.host}:{page.port}" for page in endpoints_of(self._known.announcements, "front")]

    def _known_shards(self) -> list[ShardReport]:
        """Shards that still load, which no router knows yet; routers report the others."""
        youngest = {a.index: a for a in self._known.announcements if a.role == "shard"}
        return [_shard_report(a) for a in youngest.values() if a.state != "ready"]


def _shard_report(announcement: Announcement) -> ShardReport:
    return ShardReport(
        shard=announcement.index,
        replica=announcement.replica,
        state=announcement.state,
        node=announcement.node,
        pid=announcement.pid,
        experts=0,
        weights_bytes=announcement.loaded_bytes,
        rows_per_second=0.0,
        assignments_per_second=0.0,
        phase_seconds={},
    )
