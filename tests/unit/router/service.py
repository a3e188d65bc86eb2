"""Routers and shards behind a world's Front, without Ray."""

import asyncio

import torch

from experts.config import ExpertsConfig
from experts.transport.socket import SocketTransport
from router_service.config import EngineConfig, MetricsConfig
from router_service.engine.builder import build_engine
from router_service.engine.scheduling.scheduler import ScheduledSequence
from router_service.router.identity import RouterIdentity
from router_service.router.reporting.reporter import ModelSizes
from router_service.router.router import Router
from tests.support.mesh import CPU, CREDENTIALS, NODE, ShardServers, load_shards
from tests.support.tiny import Tiny
from tests.unit.front.calls import Responses, collect
from tests.unit.front.front_fakes import WAIT_S, until
from tests.unit.front.front_world import World

SHARDS = 3


class Brake:
    """Lets a router take requests in, and compute no more than `steps` steps until it is released.

    How many steps are done by the time that a request or its end has come is a matter of the machine.
    """

    def __init__(self, router: Router, steps: int = 0) -> None:
        self.steps = steps
        self._released = False
        self._schedule = router.engine.scheduler.schedule
        router.engine.scheduler.schedule = self._some  # type: ignore[method-assign]

    def release(self) -> None:
        self._released = True

    def _some(self) -> list[ScheduledSequence]:
        chosen = self._schedule() if self.steps or self._released else []
        self.steps = max(0, self.steps - bool(chosen))
        return chosen


class Service:
    """Routers that share the same shards, behind the world's Front."""

    def __init__(self, tiny: Tiny, world: World) -> None:
        self.world = world
        self.plan = tiny.plan
        self.servers = ShardServers(load_shards(tiny.plan, SHARDS))
        self.routers: list[Router] = []
        for index in range(SHARDS):
            self.servers.start(index)

    async def start(self, routers: int = 1, **config: int) -> None:
        experts = ExpertsConfig(shards=SHARDS, call_timeout_seconds=10.0)
        for index in range(routers):
            transport = SocketTransport()
            engine_config = EngineConfig(**{"max_sequences": 16, "kv_cache_tokens": 1024} | config)
            engine = build_engine(self.plan, transport, experts, engine_config, torch.float32, CPU)
            identity = RouterIdentity(index, f"r{index}", "tiny", NODE, "127.0.0.1", CREDENTIALS)
            sizes = ModelSizes(1000, 400, 500, 60, 0.1)
            router = Router(
                engine=engine,
                transport=transport,
                shards=self.servers.endpoints,
                identity=identity,
                sizes=sizes,
                experts=experts,
                metrics=MetricsConfig(),
            )
            self.routers.append(router)
            self.world.endpoints.append(self.routers[-1].endpoint)
        await until(lambda: all(router.ready() for router in self.routers))
        self.client = await self.world.front()
        await self.client.wait_ready(WAIT_S)
        await until(lambda: self.world.server.linked_routers == routers)

    async def idle(self) -> None:
        """Every request has left every router, and no block is lost."""
        # The engine's thread lets go of a request when the step is over that ended it.
        await until(lambda: all(not router.engine.requests for router in self.routers))
        pools = [pool for router in self.routers for pool in router.engine.scheduler.blocks.pools]
        await until(lambda: all(pool.used == 0 for pool in pools))

    async def close(self) -> None:
        for router in self.routers:
            router.check_health(30)
            await asyncio.to_thread(router.close)
        self.servers.close()


async def ask(service: Service, prompt: list[int], most: int, **options: object) -> Responses:
    return await collect(
        service.client, tokens=prompt, max_tokens=most, **{"temperature": 0, "ignore_eos": True} | options
    )
