"""A router whose shards the test starts, stops and replaces."""

import time

import torch

from experts.config import ExpertsConfig
from experts.transport.address import Endpoint
from experts.transport.socket import SocketTransport
from router_service.config import EngineConfig, MetricsConfig
from router_service.engine.builder import build_engine
from router_service.metrics.windows import Window
from router_service.protocol.messages import RouterReport
from router_service.router.identity import RouterIdentity
from router_service.router.reporting.reporter import ModelSizes
from router_service.router.router import Router
from tests.support.mesh import CPU, CREDENTIALS, NODE, ShardServers, load_shards, until
from tests.support.scrape import Page, page
from tests.support.tiny import Tiny

SIZES = ModelSizes(1000, 400, 500, 60, 0.1)
BLOCK, TOKENS = 16, 512


class Live:
    """A router and two shards on sockets; `listed` is what the cluster's directory says of them."""

    def __init__(self, tiny: Tiny, sizes: ModelSizes = SIZES, copies: int = 1) -> None:
        self.servers = ShardServers(load_shards(tiny.plan, 2, copies=copies))
        for index in (0, 1):
            self.servers.start(index)
        self.listed = self.servers.endpoints()
        experts, transport = ExpertsConfig(shards=2, copies=copies, call_timeout_seconds=10.0), SocketTransport()
        config = EngineConfig(max_sequences=8, kv_cache_tokens=TOKENS, block_size=BLOCK, threads=1)
        engine = build_engine(tiny.plan, transport, experts, config, torch.float32, CPU)
        identity = RouterIdentity(0, "r0", "m", NODE, "127.0.0.1", CREDENTIALS)
        self.router = Router(
            engine=engine,
            transport=transport,
            shards=self._endpoints,
            identity=identity,
            sizes=sizes,
            experts=experts,
            metrics=MetricsConfig(),
        )
        until(self.router.ready, "every shard is connected")
        until(self._told, "every shard has told its status")

    def report(self) -> RouterReport:
        """What the router says of this moment."""
        return self.router.reporter.report(Window(self.router.statistics.cumulative, time.monotonic()))

    def page(self) -> Page:
        """The router's series of this moment."""
        return page(self.report().metric_families)

    def replace(self, shard: int) -> None:
        """A new life of a shard takes the place of the last one."""
        self.servers.stop(shard)
        self.servers.start(shard)
        self.listed = self.servers.endpoints()

    def close(self) -> None:
        self.router.close()
        self.servers.close()

    def _told(self) -> bool:
        connector = self.router.connector
        return all(connector.connections[shard].status for shard in connector.there)

    def _endpoints(self) -> list[Endpoint]:
        return list(self.listed)
