"""The three kinds of Serve deployments. Each wraps an object that knows nothing of Ray."""

import asyncio
import os
import time
from dataclasses import replace
from typing import Any

import ray
import torch
from ray import serve

from cluster.config import ClusterConfig, config_from
from cluster.directory import Announcement, Announcer, endpoints_of, find_directory
from cluster.model import ServedModel, open_model
from cluster.process import (
    data_host,
    do_not_preempt,
    node_id,
    reachable_host,
    replica_id,
    set_logging,
    shard_threads,
)
from cluster.security import deployment_secret
from cluster.settle import check_process
from experts.placement import even_placement
from experts.server import ExpertServer
from experts.shard import load_shard
from experts.transport.address import Endpoint, new_incarnation
from experts.transport.socket import SocketTransport
from kernels import select
from router_service.assembly import build_engine
from router_service.front.server import FrontServer
from router_service.front.text_model import load_text_model
from router_service.messages import ShardReport
from router_service.reporter import ModelSizes
from router_service.router import Router, RouterIdentity

DIRECTORY_SECONDS = 5.0
FRONT_POLL_SECONDS = 0.5


class Announced:
    """A process that tells the directory how far it is."""

    def __init__(self, role: str, index: int, config: ClusterConfig, total_bytes: int) -> None:
        set_logging(config, f"{role} {index}" if role == "shard" else role)
        self.directory = find_directory(config.cluster.application)
        self._state = Announcement(role, index, replica_id(), node_id(), os.getpid(), "loading", 0, total_bytes)
        self._announcer = Announcer(self.directory, lambda: self._state)

    def progress(self, loaded: int) -> None:
        """So many more bytes are loaded."""
        self._state = replace(self._state, loaded_bytes=self._state.loaded_bytes + loaded)

    def ready(self, endpoint: Endpoint) -> None:
        """Peers may connect from now on."""
        self._state = replace(self._state, state="ready", endpoint=endpoint)
        self._announcer.announce_now()

    def close(self) -> None:
        """Withdraw."""
        self._announcer.close()


class ShardReplica:
    """One expert shard."""

    def __init__(self, data: dict[str, Any], index: int, secret: bytes) -> None:
        config = config_from(data)
        do_not_preempt()
        model = _open_to_load(config, "shard")
        held = even_placement(model.plan.spec.gate.experts, config.experts.shards).shards[index]
        self._announced = Announced("shard", index, config, model.shard_bytes(len(held)))
        self._stuck_s = config.cluster.stuck_seconds
        shard = load_shard(
            index,
            held,
            model.plan.checkpoint,
            model.plan.tensors.experts,
            model.dtype,
            model.device,
            select.ops(config.experts.backend, model.device),
            model.keep_packed,
            self._announced.progress,
        )
        place = (data_host(config), node_id(), replica_id())
        with torch.inference_mode():
            shard.warm_up()
            threads = shard_threads(config.experts.shards)
            proven, slow_s = deployment_secret(config, secret), config.logging.slow_call_seconds
            checksum = config.experts.checksum
            self._server = ExpertServer(shard, proven, *place, checksum, threads=threads, slow_call_s=slow_s)
        self._announced.ready(self._server.endpoint)

    def check_health(self) -> None:
        """Called by Serve once a second."""
        self._server.check_health(self._stuck_s)

    def __del__(self) -> None:
        """Called by Serve when it stops the replica."""
        if hasattr(self, "_server"):
            self._announced.close()
            self._server.close()


class RouterReplica:
    """One router: everything of the model but the experts."""

    def __init__(self, data: dict[str, Any], secret: bytes) -> None:
        config = config_from(data)
        model = _open_to_load(config, "router")
        self._announced = Announced("router", 0, config, model.router_bytes)
        self._stuck_s = config.cluster.stuck_seconds
        begun, transport = time.monotonic(), SocketTransport()
        source = (model.plan, transport, config.experts, config.router, model.dtype, model.device)
        engine = build_engine(*source, model.keep_packed, self._announced.progress)
        proven = deployment_secret(config, secret)
        identity = RouterIdentity(0, replica_id(), model.name, node_id(), data_host(config), proven)
        sizes = _sizes(model, time.monotonic() - begun)
        settings = (config.experts, config.metrics, config.logging)
        self._router = Router(engine, transport, self._shards, identity, sizes, *settings)
        self._wait_for_shards(config.cluster.ready_timeout_seconds)
        self._announced.ready(self._router.endpoint)

    def check_health(self) -> None:
        """Called by Serve once a second."""
        self._router.check_health(self._stuck_s)

    def __del__(self) -> None:
        """Called by Serve when it stops the replica."""
        if hasattr(self, "_router"):
            self._announced.close()
            self._router.close()

    def _shards(self) -> list[Endpoint]:
        announcements = ray.get(self._announced.directory.announcements.remote(), timeout=DIRECTORY_SECONDS)
        return endpoints_of(announcements, "shard")

    def _wait_for_shards(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._router.ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all shards were there within {seconds:.0f} s")
            time.sleep(0.05)


class FrontReplica:
    """One Front: the API. It starts when it is first asked how it is, on the loop that will drive it."""

    def __init__(self, data: dict[str, Any], secret: bytes, *_: Any) -> None:
        config = config_from(data)
        self._announced = Announced("front", 0, config, 0)
        self._directory = self._announced.directory
        model = open_model(config.model, config.weights, computes_here=False)
        text = load_text_model(model.plan.checkpoint.path)
        self._metrics_host = reachable_host(config.front.metrics_host)
        self._announcements: list[Announcement] = []
        self._server = FrontServer(
            replace(config.front, poll_s=FRONT_POLL_SECONDS, checksum=config.experts.checksum),
            text,
            model.card(),
            self._routers,
            deployment_secret(config, secret),
            node_id(),
            self._known_shards,
            lambda: [f"{page.host}:{page.port}" for page in endpoints_of(self._announcements, "front")],
            config.tracing,
        )
        self._started = asyncio.Lock()
        self._running = False

    async def status(self) -> dict[str, Any]:
        """Ports, how many routers are linked, and how far the other processes are."""
        await self._start()
        self._announcements = await self._directory.announcements.remote()
        return {
            "grpc_port": self._server.grpc_port,
            "metrics_port": self._server.metrics_port,
            "http_port": self._server.http_port,
            "routers": self._server.linked_routers,
            "announcements": self._announcements,
        }

    async def drain(self, grace_s: float) -> None:
        """Refuse what is new and let streams end; see `FrontServer.drain`."""
        await self._server.drain(grace_s)

    async def check_health(self) -> None:
        """Called by Serve once a second; the first time it starts the server."""
        await self._start()

    async def __del__(self) -> None:
        """Called by Serve when it stops the replica."""
        if hasattr(self, "_announced"):
            await asyncio.to_thread(self._announced.close)
        if getattr(self, "_running", False):
            await self._server.stop()

    async def _start(self) -> None:
        async with self._started:
            if not self._running:
                await self._server.start()
                self._running = True
                if port := self._server.metrics_port:
                    place = (node_id(), self._metrics_host, port, "", os.getpid())
                    self._announced.ready(Endpoint("front", 0, replica_id(), new_incarnation(), *place))

    async def _routers(self) -> list[Endpoint]:
        self._announcements = await self._directory.announcements.remote()
        return endpoints_of(self._announcements, "router")

    def _known_shards(self) -> list[ShardReport]:
        """Shards on their way, which no router knows yet; of the others the routers know better."""
        youngest = {a.index: a for a in self._announcements if a.role == "shard"}
        return [_shard_report(a) for a in youngest.values() if a.state != "ready"]


def _open_to_load(config: ClusterConfig, role: str) -> ServedModel:
    """The model, after making sure that its part fits here, where only this process can know what there is.

    Raises:
        DoesNotFitError: it does not; on a machine of our own the launcher has looked at all processes together.
    """
    model = open_model(config.model, config.weights)
    if config.cluster.address:
        check_process(config, model, role)
    return model


def _sizes(model: ServedModel, seconds: float) -> ModelSizes:
    card = model.card()
    shared = model.shared_expert_bytes
    return ModelSizes(card.total_parameters, card.active_parameters, model.router_bytes - shared, shared, seconds)


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


def deploy(replica: type, **options: Any) -> Any:
    """A Serve deployment whose health is looked at once a second."""
    return serve.deployment(
        health_check_period_s=1.0, health_check_timeout_s=10.0, graceful_shutdown_timeout_s=5.0, **options
    )(replica)
