"""Row `routers`: what of the prefix cache's use is left behind a Front with two routers."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from cluster.config import ModelConfig
from cluster.planner.model import ServedModel, open_model
from experts.config import ExpertsConfig, WeightsConfig
from experts.transport.address import Endpoint
from experts.transport.socket import SocketTransport
from router_service.client.client import Client
from router_service.config import EngineConfig, MetricsConfig
from router_service.engine.builder import build_engine
from router_service.front.config import FrontConfig
from router_service.front.server import FrontServer
from router_service.router.identity import RouterIdentity
from router_service.router.reporting.reporter import ModelSizes
from router_service.router.router import Router
from router_service.text.text_model import load_text_model
from tests.benchmarks.harness.sides import Tokens
from tests.benchmarks.traffic.figure import Figure
from tests.benchmarks.traffic.plan import Plan, prompt
from tests.support.mesh import CREDENTIALS, NODE, ShardServers, load_shards

CONVERSATIONS, TURNS, NEW_TOKENS, ANSWER, SHARDS = 8, 5, 120, 8, 2
POLL_SECONDS, READY_SECONDS = 0.02, 60.0


class FrontAndRouters:
    """A Front, its routers and their shards in this process, over real sockets; an asynchronous context manager."""

    def __init__(self, directory: Path, routers: int) -> None:
        self._directory = directory
        self._model = open_model(ModelConfig(checkpoint=str(directory)), WeightsConfig("dequantized"))
        self._servers = ShardServers(load_shards(self._model.plan, SHARDS, self._model.dtype))
        for index in range(SHARDS):
            self._servers.start(index)
        self.routers = [_router(self._model, self._servers, index) for index in range(routers)]
        self._stack = AsyncExitStack()

    @property
    def hit_rate(self) -> float:
        """The share of the admitted requests' tokens that were cached."""
        schedulers = [router.engine.scheduler for router in self.routers]
        return sum(one.cache_hits for one in schedulers) / sum(one.cache_queries for one in schedulers)

    async def __aenter__(self) -> Self:
        self._stack.callback(self._servers.close)
        for router in self.routers:
            self._stack.push_async_callback(asyncio.to_thread, router.close)
        await _until_ready(self.routers)
        front = FrontServer(
            config=FrontConfig(poll_seconds=POLL_SECONDS, metrics_port=None, http_port=None),
            text=load_text_model(self._directory),
            card=self._model.card(),
            endpoints=self._endpoints,
            credentials=CREDENTIALS,
            node=NODE,
            routers=len(self.routers),
        )
        await front.start()
        self._stack.push_async_callback(front.stop)
        self.client = await self._stack.enter_async_context(Client(f"127.0.0.1:{front.grpc_port}"))
        await self.client.wait_ready(READY_SECONDS)
        while front.linked_routers < len(self.routers):
            await asyncio.sleep(POLL_SECONDS)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _endpoints(self) -> list[Endpoint]:
        return [router.endpoint for router in self.routers]


def _router(model: ServedModel, servers: ShardServers, index: int) -> Router:
    experts, config = ExpertsConfig(shards=SHARDS), EngineConfig(kv_cache_tokens=32768, threads=1)
    transport = SocketTransport(config.lanes)
    engine = build_engine(model.plan, transport, experts, config, model.dtype, model.device)
    return Router(
        engine=engine,
        transport=transport,
        shards=servers.endpoints,
        identity=RouterIdentity(index, f"r{index}", model.name, NODE, "127.0.0.1", CREDENTIALS),
        sizes=ModelSizes(0, 0, 0, 0, 0.0),
        experts=experts,
        metrics=MetricsConfig(),
    )


async def _until_ready(routers: list[Router]) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while not all(router.ready() for router in routers):
            await asyncio.sleep(POLL_SECONDS)


async def talk(client: Client, seed: object) -> None:
    """A conversation whose turns resend all before, the answers included, and `NEW_TOKENS` tokens that are new."""
    history: Tokens = []
    for number in range(TURNS):
        history += prompt(NEW_TOKENS, seed, number)
        async for response in client.generate(tokens=history, max_tokens=ANSWER, temperature=0.0, ignore_eos=True):
            history = history + list(response.token_ids)


async def hit_rate(directory: Path, routers: int, seed: object) -> float:
    """Of `CONVERSATIONS` conversations at the same time."""
    async with FrontAndRouters(directory, routers) as rig:
        await asyncio.gather(*(talk(rig.client, (seed, number)) for number in range(CONVERSATIONS)))
        return rig.hit_rate


def routers(plan: Plan) -> list[Figure]:
    """Two routers in turns with one, each time with empty caches."""
    shares, rates = [], []
    for number in range(plan.rounds):
        two, one = (asyncio.run(hit_rate(plan.bundled, count, number)) for count in (2, 1))
        shares.append(two / one)
        rates.append((two, one))
    what = f"prefix cache hit rate of two routers / of one, {CONVERSATIONS} conversations of {TURNS} turns"
    note = "hit rates of two and of one: " + ", ".join(f"{two:.2f} and {one:.2f}" for two, one in rates)
    return [Figure("routers", what, tuple(shares), 0.9, at_least=True, note=note)]
