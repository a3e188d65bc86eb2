"""Shards come and go under 16 streams of the bundled model, and nobody notices."""

import asyncio
from pathlib import Path

import pytest

from router_service.client.client import Client
from router_service.protocol import cluster_pb2 as pb
from tests.e2e.load import load
from tests.e2e.server import Server, gone, serving

# Processes start and end within a test: on a busy machine that takes minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]

STREAMS, TOKENS = 16, 100
PROMPTS = [[5 + 7 * number + 3 * place for place in range(12)] for number in range(STREAMS)]
EXPERTS = 16 * 4  # of the bundled model's layers, all together


async def test_no_stream_is_lost_and_no_request_refused_while_shards_come_and_go(tmp_path: Path) -> None:
    with serving("--shards", "2", "--grpc-port", "0", "--metrics-port", "0", log=tmp_path / "log") as server:
        await scale_under_load(server)
    assert " is lost" not in (tmp_path / "log").read_text()


async def scale_under_load(server: Server) -> None:
    async with Client(server.target) as client, load(server.target, STREAMS, PROMPTS, TOKENS) as made:
        await answers(made.answers, STREAMS)
        seen = {}
        for shards in (4, 3):
            reply = await client.scale(shards, timeout=60)
            assert reply.shards == shards
            seen[shards] = await scaled(client, shards)
            await answers(made.answers, STREAMS)
        last = await client.cluster(timeout=60)
    assert made.lost == []
    assert made.refused == []
    first = {which: tokens for which, tokens in reversed(made.answers)}
    assert [tokens for which, tokens in made.answers if tokens != first[which]] == []
    assert len(first) == STREAMS
    assert [plan.state for plan in last.balance.plans] == ["done", "done"]
    # The process of the shard that has left is gone; nobody else was replaced.
    assert gone({seen[4][3]}) == set()
    assert [seen[3][shard] for shard in range(3)] == [seen[4][shard] for shard in range(3)]


async def answers(made: list[tuple[int, list[int]]], more: int) -> None:
    """Wait until so many more have come."""
    enough = len(made) + more
    async with asyncio.timeout(200):
        while len(made) < enough:
            await asyncio.sleep(0.02)


async def scaled(client: Client, shards: int) -> dict[int, int]:
    """Wait until just so many shards are there, each with experts; return their processes."""
    async with asyncio.timeout(200):
        while not is_scaled(state := await client.cluster(timeout=60), shards):
            await asyncio.sleep(0.1)
    return {shard.shard: shard.pid for shard in state.shards}


def is_scaled(state: pb.ClusterState, shards: int) -> bool:
    there = [shard.shard for shard in state.shards if shard.state == "ready" and shard.experts]
    whole = sum(shard.experts for shard in state.shards) == EXPERTS
    return there == list(range(shards)) == [shard.shard for shard in state.shards] and whole
