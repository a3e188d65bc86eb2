"""Several Fronts answer on one port; one dies."""

import asyncio
import json
import os
import signal
from collections import Counter
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest

from router_service.client.client import Client
from tests.e2e.answers import collect, tokens_of
from tests.e2e.load import load
from tests.e2e.ray_head import free_ports, get
from tests.e2e.server import serving
from tests.e2e.shared_ray import SharedRay
from tests.support.tiny import greedy, random_prompts, write_checkpoint

# Processes end and others start within a test: on a busy machine that takes minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]

NAME = "fronts"
FRONT = f"ray::ServeReplica:{NAME}:Front"


def fronts(ray: SharedRay) -> set[int]:
    """The processes of the Fronts."""
    return {pid for pid in ray.descendants() if title(pid).startswith(FRONT)}


def title(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def callers(pids: set[int], port: int) -> Counter[int]:
    """How many connections to the API each process has."""
    found: Counter[int] = Counter()
    for pid in pids:
        connections = psutil.Process(pid).net_connections("tcp")
        found[pid] = sum(one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED for one in connections)
    return found


async def test_two_fronts_share_callers_and_one_may_die(shared_ray: SharedRay, tmp_path: Path) -> None:
    oracle = write_checkpoint(tmp_path, "mixtral")
    prompts, (port,) = random_prompts(4, seed=3), free_ports(1)
    arguments = (str(tmp_path), "--shards", "1", "--fronts", "2", "--grpc-port", str(port))
    with serving(*arguments, *shared_ray.joined_as(NAME), log=tmp_path / "log") as server:
        both = fronts(shared_ray)
        assert len(both) == 2
        async with load(server.target, 16, prompts, 60) as made:
            async with asyncio.timeout(200):
                while len(made.answers) < 32 or made.running < 16:
                    await asyncio.sleep(0.05)
            shares = callers(both, port)
            victim = min(both)
            os.kill(victim, signal.SIGKILL)
            async with asyncio.timeout(200):
                while len(now := fronts(shared_ray)) < 2 or victim in now:
                    await asyncio.sleep(0.1)
        pages = await asyncio.wait_for(listed(shared_ray), 200)
        async with Client(server.target) as client:
            answer = await collect(client, tokens=[3, 1, 4], max_tokens=16, temperature=0.0)
    assert all(shares.values()), "gRPC clients of their own connections, all on one Front"
    assert shares.total() >= 16
    assert len(made.lost) <= shares[victim]
    assert len(made.answers) >= 48 - shares[victim]
    expected = {which: greedy(oracle, prompt, 60) for which, prompt in enumerate(prompts)}
    assert all(tokens == expected[which] for which, tokens in made.answers if len(tokens) == 60)
    assert tokens_of(answer) == greedy(oracle, [3, 1, 4], 16)
    assert len(pages) == 2


async def listed(ray: SharedRay) -> list[str]:
    """The metrics pages once there are two again: the ready line's own may be of the Front that died."""
    while True:
        for pid in fronts(ray):
            for one in psutil.Process(pid).net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and (pages := targets(one.laddr.port)):
                    return pages
        await asyncio.sleep(0.2)


def targets(port: int) -> list[str]:
    try:
        (group,) = json.loads(get(f"http://127.0.0.1:{port}/sd"))
    except (OSError, ValueError, HTTPException):
        return []
    pages: list[str] = group["targets"]
    return pages if len(pages) == 2 else []
