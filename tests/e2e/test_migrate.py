"""Experts move while streams run: proposals to a real cluster's registry, a shard killed during one of them."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from router_service.client.client import Client
from tests.e2e.answers import Served
from tests.e2e.load import Load, load
from tests.e2e.server import serving
from tests.e2e.shared_ray import SharedRay
from tests.support.mover import Moved, Mover, moving
from tests.support.tiny import greedy, random_prompts, write_checkpoint

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(600)]

SHARDS, STREAMS, TOKENS = 3, 8, 60
NAME = "moved"
# Each shard may hold everything: what is tested is that everything moves.
CONFIG = "router: {unavailable_wait_seconds: 200}\nbalance: {extra_copies: 16, bandwidth_mib: 0}\n"


@pytest.fixture
def moved(shared_ray: SharedRay, tmp_path: Path) -> Iterator[tuple[Served, Mover]]:
    oracle = write_checkpoint(tmp_path, "qwen3_moe")
    (tmp_path / "moved.yaml").write_text(CONFIG)
    arguments = (str(tmp_path), "--shards", str(SHARDS), "--config", str(tmp_path / "moved.yaml"))
    with serving(*arguments, *shared_ray.joined_as(NAME), log=tmp_path / "log") as server:
        layout = {"cluster": {"address": shared_ray.address}, "experts": {"shards": SHARDS}}
        with moving(shared_ray.address, NAME, layout, tmp_path) as mover:
            yield Served(server, oracle, tmp_path), mover


async def test_experts_move_under_streams_and_no_token_differs(moved: tuple[Served, Mover]) -> None:
    served, mover = moved
    prompts = random_prompts(6, seed=5)
    expected = [greedy(served.oracle, prompt, TOKENS) for prompt in prompts]
    async with load(served.server.target, STREAMS, prompts, TOKENS) as flows:
        await _answered(flows, STREAMS)
        for seed in range(2):
            done = await _moves(mover, seed)
            assert done["state"] == "done"
            assert done["copies_added"] > 0
            await _answered(flows, STREAMS)
        await asyncio.to_thread(mover.move, 2)
        await _kill(served.server.target, 1)
        done = await asyncio.to_thread(mover.wait)
        assert done["state"] == "done"  # its replacement has prepared
        await _answered(flows, STREAMS)
    assert flows.lost == []
    assert dict(flows.answers) == dict(enumerate(expected))
    assert all(tokens == expected[which] for which, tokens in flows.answers)


async def _moves(mover: Mover, seed: int) -> Moved:
    await asyncio.to_thread(mover.move, seed)
    return await asyncio.to_thread(mover.wait)


async def _answered(flows: Load, more: int) -> None:
    """Until so many more answers are there."""
    enough = len(flows.answers) + more
    async with asyncio.timeout(120):
        while len(flows.answers) < enough:
            await asyncio.sleep(0.05)


async def _kill(target: str, index: int) -> None:
    async with Client(target) as client:
        (shard,) = [one for one in (await client.cluster()).shards if one.shard == index]
        os.kill(shard.pid, signal.SIGKILL)
