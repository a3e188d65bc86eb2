"""What is done to a cluster while streams flow. Each returns when it has been done and its time is over."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

from router_service.client.client import Client
from tests.benchmarks.failover import processes
from tests.e2e.server import Server

Strike = Callable[[Server, random.Random, float], Awaitable[list[str]]]

EVERY_S = 5.0
WHOLE_POLL_S = 0.25
BURN = "while True: pass"


async def kill_shards(server: Server, draw: random.Random, seconds: float) -> list[str]:
    """Kill a random shard every five seconds, or as soon as all are back: else it might be a block's last copy."""
    said: list[str] = []
    begun = time.monotonic()
    async with Client(server.target) as client:
        while (at := time.monotonic() - begun) < seconds:
            if await _whole(client):
                shard = draw.choice((await client.cluster()).shards)
                processes.kill(shard.pid)
                said.append(f"{at:.0f} s: shard {shard.shard} killed")
                await asyncio.sleep(EVERY_S)
            await asyncio.sleep(WHOLE_POLL_S)
    return said


async def _whole(client: Client) -> bool:
    """Whether every shard that is known answers, and each by one process."""
    shards = (await client.cluster()).shards
    return len({one.shard for one in shards}) == len(shards) and all(one.state == "ready" for one in shards)


async def stop_shard(server: Server, draw: random.Random, seconds: float) -> list[str]:
    """Hold a random shard still for ten seconds; it is gone before if it is replaced."""
    living = processes.shards(server)
    shard = draw.choice(sorted(living))
    with processes.stopped(living[shard]):
        await asyncio.sleep(10.0)
    await asyncio.sleep(max(0.0, seconds - 10.0))
    return [f"shard {shard} stopped for 10 s"]


async def stop_shard_for_good(server: Server, draw: random.Random, seconds: float) -> list[str]:
    """Hold a random shard still and never let it go: whoever watches it must replace it."""
    living = processes.shards(server)
    shard = draw.choice(sorted(living))
    os.kill(living[shard], signal.SIGSTOP)
    await asyncio.sleep(seconds)
    return [f"shard {shard} stopped for good"]


async def _kill_one(server: Server, draw: random.Random, seconds: float, what: str) -> list[str]:
    pids = processes.found(server, getattr(processes, what))
    processes.kill(draw.choice(pids))
    await asyncio.sleep(seconds)
    return [f"one of {len(pids)} {what.lower()} processes killed"]


async def kill_router(server: Server, draw: random.Random, seconds: float) -> list[str]:
    """Kill one of the routers."""
    return await _kill_one(server, draw, seconds, "ROUTER")


async def kill_front(server: Server, draw: random.Random, seconds: float) -> list[str]:
    """Kill a Front, and with it every connection: clients go on where they were, at its successor on the same port."""
    return await _kill_one(server, draw, seconds, "FRONT")


async def kill_registry(server: Server, draw: random.Random, seconds: float) -> list[str]:
    """Kill the registry of processes."""
    return await _kill_one(server, draw, seconds, "REGISTRY")


async def kill_controller(server: Server, draw: random.Random, seconds: float) -> list[str]:
    """Kill Serve's controller."""
    return await _kill_one(server, draw, seconds, "CONTROLLER")


async def load_cores(server: Server, draw: random.Random, seconds: float) -> list[str]:  # noqa: ARG001 (a Strike)
    """Keep every core busy with something else."""
    cores = os.cpu_count() or 1
    burning = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(cores)]
    try:
        await asyncio.sleep(seconds)
    finally:
        for process in burning:
            process.kill()
            process.wait()
    return [f"{cores} cores loaded by others for {seconds:.0f} s"]
