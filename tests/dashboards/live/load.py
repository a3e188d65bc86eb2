"""Requests to a cluster from a thread of its own, more or fewer of them."""

import asyncio
import threading
from types import TracebackType
from typing import Self

import grpc

from router_service.client.client import Client
from router_service.protocol import cluster_pb2
from tests.support.tiny import random_prompts

STEADY_STREAMS = 4
PAUSE_S = 0.1
BURST_A_SECOND = 8
STOP_S = 20


class Load:
    """While the block runs, a few short streams at a time; `burst` adds long ones faster than they can be served.

    Errors are counted, not raised: a cluster under test is harmed on purpose.
    """

    def __init__(self, target: str) -> None:
        self.answers = 0
        self.errors: dict[str, int] = {}
        self._target = target
        self._prompts = random_prompts(64)
        self._stop, self._burst = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "the load did not stop"

    def burst(self, on: bool) -> None:
        """Begin or end to add long streams; those under way are cancelled at the end."""
        (self._burst.set if on else self._burst.clear)()

    async def _run(self) -> None:
        async with Client(self._target) as client:
            steady = [asyncio.create_task(self._steady(client, n)) for n in range(STEADY_STREAMS)]
            flood: list[asyncio.Task[None]] = []
            while not self._stop.is_set():
                await asyncio.sleep(1 / BURST_A_SECOND)
                if self._burst.is_set():
                    flood.append(asyncio.create_task(self._ask(client, len(flood), 200)))
                elif flood:
                    await _cancel(flood)
                    flood.clear()
            await _cancel([*steady, *flood])

    async def _steady(self, client: Client, number: int) -> None:
        turn = number
        while True:
            await self._ask(client, turn, 24)
            turn += STEADY_STREAMS
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, client: Client, turn: int, tokens: int) -> None:
        prompt = self._prompts[turn % len(self._prompts)]
        try:
            async for _ in client.generate(tokens=prompt, max_tokens=tokens, temperature=1.0, seed=turn, timeout=60):
                pass
            self.answers += 1
        except grpc.aio.AioRpcError as error:
            self.errors[error.code().name] = self.errors.get(error.code().name, 0) + 1


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def cluster_state(target: str) -> cluster_pb2.ClusterState:
    """What a cluster says of itself."""

    async def ask() -> cluster_pb2.ClusterState:
        async with Client(target) as client:
            return await client.cluster(timeout=10)

    return asyncio.run(ask())
