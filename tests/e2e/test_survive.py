"""Copies of experts: shards die, hang and come back under streams, and nobody notices.

What is struck is drawn from a seed that a failure prints: `EXPERTMESH_CHAOS_SEED` replays it.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from router_service.client.client import Client
from tests.e2e.answers import Served, streamed
from tests.e2e.server import held, serving
from tests.e2e.shared_ray import SharedRay
from tests.support.tiny import greedy, random_prompts, write_checkpoint

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]

SHARDS, COPIES, STREAMS, TOKENS, STRIKES = 4, 2, 8, 120, 3
# Without it each new token would be waited for as long as a stopped process is.
FAR_APART_S = 200


@pytest.fixture
def copied(shared_ray: SharedRay, tmp_path: Path) -> Iterator[Served]:
    """Four shards, each expert on two of them."""
    oracle = write_checkpoint(tmp_path, "qwen3_moe")
    (tmp_path / "patient.yaml").write_text(f"router: {{unavailable_wait_seconds: {FAR_APART_S}}}\n")
    arguments = (str(tmp_path), "--shards", str(SHARDS), "--copies", str(COPIES), "--config")
    joined = shared_ray.joined_as("copied")
    with serving(*arguments, str(tmp_path / "patient.yaml"), *joined, log=tmp_path / "log") as server:
        yield Served(server, oracle, tmp_path)


async def test_shards_die_and_hang_one_after_the_other_and_no_token_differs(copied: Served) -> None:
    seed = int(os.environ.get("EXPERTMESH_CHAOS_SEED", random.randrange(1 << 31)))
    print(f"EXPERTMESH_CHAOS_SEED={seed}")
    draw, prompts = random.Random(seed), random_prompts(STREAMS, seed=5)
    expected = [greedy(copied.oracle, prompt, TOKENS) for prompt in prompts]
    async with Client(copied.server.target) as client:
        for _ in range(STRIKES):
            started = asyncio.Event()
            calls = [asyncio.create_task(streamed(client, prompt, TOKENS, started)) for prompt in prompts]
            await asyncio.wait_for(started.wait(), 60)
            victim = await _strike(client, draw)
            assert await asyncio.gather(*calls) == expected
            await asyncio.wait_for(_whole_again(client, victim), 120)


async def _strike(client: Client, draw: random.Random) -> int:
    """Kill one shard, or hold it until the streams have gone on without it; returns the process."""
    shard = draw.choice((await client.cluster()).shards)
    if draw.random() < 0.5:
        os.kill(shard.pid, signal.SIGKILL)
        return int(shard.pid)
    with held(shard.pid):
        # Whoever has to wait for it waits here.
        stream = client.generate(tokens=[1, 2, 3], max_tokens=20, temperature=0.0, timeout=60)
        assert sum([len(response.token_ids) async for response in stream]) > 0
    return 0


async def _whole_again(client: Client, victim: int) -> None:
    """Until every shard is ready and the victim is forgotten: the next strike may take a copy that is the last."""
    while True:
        shards = (await client.cluster()).shards
        ready = {one.shard for one in shards if one.state == "ready" and one.pid != victim}
        if len(ready) == SHARDS and victim not in {one.pid for one in shards}:
            return
        await asyncio.sleep(0.1)
