"""The balancer on a real cluster: hot experts move while streams flow, no token differs, and nobody needs it to live."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from router_service.client.client import Client
from router_service.protocol.cluster_pb2 import Balance
from tests.e2e.answers import Served
from tests.e2e.load import load
from tests.e2e.server import serving
from tests.e2e.shared_ray import SharedRay
from tests.support.tiny import greedy, random_prompts, write_checkpoint

# Processes end and others start within a test: on a busy machine that takes minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]

STREAMS, TOKENS = 8, 120
# Two prompts, so that few experts are hot: the model's router is random, but the same for the same tokens.
PROMPTS = random_prompts(2, seed=3)
SETTINGS: dict[str, dict[str, Any]] = {
    "balance": {
        "automatic": True,
        "interval_seconds": 1,
        "window_seconds": 4,
        "cooldown_seconds": 2,
        "rounds": 1,
        "least_gain": 0.01,
        "extra_copies": 2,
    },
    "router": {"unavailable_wait_seconds": 200},
}
Seen = Callable[[Balance], bool]


@pytest.fixture
def balanced(shared_ray: SharedRay, tmp_path: Path) -> Iterator[Served]:
    oracle = write_checkpoint(tmp_path, "qwen3_moe")
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    arguments = (str(tmp_path), "--shards", "2", "--config", str(tmp_path / "settings.yaml"))
    with serving(*arguments, *shared_ray.joined_as("balanced"), log=tmp_path / "log") as server:
        yield Served(server, oracle, tmp_path)


async def until(client: Client, seen: Seen, seconds: float = 120.0) -> Balance:
    """Wait until the balancer's state is as it should be; the Front knows it a second later."""
    state = Balance()
    try:
        async with asyncio.timeout(seconds):
            while not seen(state := (await client.cluster()).balance):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"the balancer's state is still {state}") from None
    return state


def balancer_of(ray: SharedRay) -> int:
    """The process of the cluster's balancer."""
    for pid in ray.descendants():
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if b"ServeReplica:balanced:Balancer" in title:
            return pid
    raise AssertionError("no process is the balancer")


async def test_hot_experts_move_under_streams_and_the_balancer_may_die(balanced: Served, shared_ray: SharedRay) -> None:
    async with Client(balanced.server.target) as client, load(balanced.server.target, STREAMS, PROMPTS, TOKENS) as made:
        moved = await until(client, lambda state: any(plan.state == "done" for plan in state.plans))
        (done, *_) = [plan for plan in moved.plans if plan.state == "done"]
        assert done.copies_added > 0
        assert done.predicted_gain >= SETTINGS["balance"]["least_gain"]
        assert moved.epoch >= done.epoch >= 2
        os.kill(balancer_of(shared_ray), signal.SIGKILL)
        answered = len(made.answers)
        # The one that replaces it goes on: it looks, and knows what was moved.
        later = await until(client, lambda state: state.last_run > moved.last_run + 5)
        assert done.epoch in [plan.epoch for plan in later.plans]
        assert later.copies_moved >= done.copies_added
        async with asyncio.timeout(120):
            while len(made.answers) < answered + STREAMS:
                await asyncio.sleep(0.1)
    assert (made.lost, made.refused) == ([], [])
    expected = [greedy(balanced.oracle, prompt, TOKENS) for prompt in PROMPTS]
    assert all(tokens == expected[which] for which, tokens in made.answers)
