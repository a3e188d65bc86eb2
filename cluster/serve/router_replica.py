"""A router as a Serve deployment."""

import asyncio
import math
import time
from typing import Any

import torch

from cluster.config import ClusterConfig, config_from
from cluster.planner.model import ServedModel
from cluster.planner.moving import shard_budget
from cluster.processes.balancing.load_reporter import LoadReporter
from cluster.processes.known_processes import KnownProcesses
from cluster.processes.maps.map_follower import layout_of
from cluster.processes.node_loading import GRACE_SECONDS, await_loaded, to_be_freed, to_be_loaded
from cluster.processes.node_peers import announced_in
from cluster.processes.process import data_host, node_id, replica_id
from cluster.processes.registered_process import RegisteredProcess
from cluster.processes.service_registry import DrainOrder, endpoints_of
from cluster.serve.deployments import ORDER_SECONDS, end, open_to_load
from cluster.serve.security import credentials_of
from experts.placement import Placement
from experts.transport.address import Endpoint
from experts.transport.socket import SocketTransport
from router_service.engine.builder import build_engine, free_bytes
from router_service.engine.engine import Engine
from router_service.router.identity import RouterIdentity
from router_service.router.reporting.reporter import ModelSizes
from router_service.router.router import Router


class RouterReplica:
    """One router: the model without its experts."""

    def __init__(self, data: dict[str, Any], secret: bytes, digest: bytes) -> None:
        config = config_from(data)
        self._process = RegisteredProcess("router", 0, config, self._drain)
        self._known = KnownProcesses(self._process.registry)
        self._config, self._waited_s, self._epoch = config.cluster, 0.0, 0
        with self._process.loading():
            self._load(config, secret, digest)
        self._process.ready(self._router.endpoint)

    def _load(self, config: ClusterConfig, secret: bytes, digest: bytes) -> None:
        model = open_to_load(config, "router")
        layout = layout_of(config, model.plan.spec.gate.experts)
        self._map = self._process.map_follower(layout)
        self._process.will_load(model.router_bytes)
        begun, transport = time.monotonic(), SocketTransport(config.router.lanes)
        engine = self._build(config, model, transport)
        identity = RouterIdentity(
            index=0,
            replica=replica_id(),
            model=model.name,
            node=node_id(),
            host=data_host(config),
            credentials=credentials_of(config, secret, digest),
        )
        self._router = Router(
            engine=engine,
            transport=transport,
            shards=self._shards,
            identity=identity,
            sizes=_sizes(model, time.monotonic() - begun - self._waited_s),
            experts=config.experts,
            metrics=config.metrics,
            logs=config.logging,
            threads=self._process.threads,
            missed=self._map.look_soon,
        )
        if (newer := self._map.begin()) is not None:  # it may have waited long for memory to be divided
            self._adopt(newer)
        self._map.follow(lambda seen: self._adopt(seen.current), self._process.threads)
        # Ready only after a token through all shards: a Front must never choose a router that cannot serve.
        self._wait_for_shards(config.cluster.ready_timeout_seconds)
        self._router.run_self_test(config.cluster.ready_timeout_seconds, self._process.go_on)
        self._loads = LoadReporter(
            self._process.registry, self._router.loads.take, config.balance, self._process.threads
        )

    def _build(self, config: ClusterConfig, model: ServedModel, transport: SocketTransport) -> Engine:
        return build_engine(
            plan=model.plan,
            transport=transport,
            experts=config.experts,
            config=config.router,
            dtype=model.dtype,
            device=model.device,
            keep_packed=model.keep_packed,
            progress=self._process.progress,
            cache_room=lambda device: self._cache_room(config, model, device),
            placement=self._placement,
        )

    def _placement(self) -> Placement:
        begun = time.monotonic()
        placement = self._map.first(self._process.go_on)
        self._waited_s += time.monotonic() - begun
        self._epoch = placement.epoch
        return placement

    def _cache_room(self, config: ClusterConfig, model: ServedModel, device: torch.device) -> int:
        """Free bytes for the cache, once all of this node has loaded. A GPU is ours; a host's memory is shared.

        What shards may load later is left to them, but no more than half of what is free: the cache comes first. What
        an update is about to end counts as free: pages of the cache are taken later, as they are written to.
        """
        begun = time.monotonic()
        routers = await_loaded(
            lambda: announced_in(self._process.registry),
            node_id(),
            shards=self._map.first(self._process.go_on).holding,
            routers=config.cluster.routers,
            seconds=config.cluster.ready_timeout_seconds,
            go_on=self._process.go_on,
            spare=config.experts.copies - 1,
        )
        self._waited_s += time.monotonic() - begun
        free = free_bytes(device)
        if device.type != "cpu":
            return free
        announced = announced_in(self._process.registry)
        free += to_be_freed(announced, node_id(), config.cluster.routers)
        later = to_be_loaded(announced, node_id(), shard_budget(config, model))
        return (free - min(later, free // 2)) // routers

    def _adopt(self, placement: Placement) -> None:
        if placement.epoch > self._epoch:
            self._epoch = placement.epoch
            self._router.adopt(placement, self._map.asks_by)

    def check_health(self) -> None:
        """Called by Serve once a second. While it drains it counts as healthy: it must not be replaced."""
        if not self._process.ending:
            self._router.check_health(self._config.stuck_seconds)

    async def __del__(self) -> None:
        """Called by Serve when it stops the replica."""
        if hasattr(self, "_router"):
            await end(self._process, self.check_health, self._config)
            await asyncio.to_thread(self._close)

    def _drain(self, order: DrainOrder) -> None:
        """A Front that is told to drain at the same time takes requests until its notice is over.

        Closed at the end, so that shards see that no router needs them and the remaining streams continue elsewhere.
        """
        time.sleep(order.notice_s + ORDER_SECONDS if order.notice_s else 0.0)
        self._router.leave(order.grace_s)
        self._close()

    def _close(self) -> None:
        if hasattr(self, "_loads"):  # Serve may stop a replica that has not loaded
            self._loads.close()
        self._router.close()

    def _shards(self) -> list[Endpoint]:
        return endpoints_of(self._known.ask(), "shard")

    def _wait_for_shards(self, seconds: float) -> None:
        """Wait until every expert can be asked for, and shortly for the other shards: requests need no copies."""
        deadline, patience = time.monotonic() + seconds, math.inf
        while not self._router.complete() and time.monotonic() < patience:
            self._process.go_on()
            if self._router.ready():
                patience = min(patience, time.monotonic() + GRACE_SECONDS)
            elif time.monotonic() > deadline:
                raise TimeoutError(f"not all shards were there within {seconds:.0f} s")
            time.sleep(0.05)


def _sizes(model: ServedModel, seconds: float) -> ModelSizes:
    card = model.card()
    shared = model.shared_expert_bytes
    return ModelSizes(
        parameters_total=card.total_parameters,
        parameters_active=card.active_parameters,
        dense_bytes=model.router_bytes - shared,
        shared_expert_bytes=shared,
        load_seconds=seconds,
    )
