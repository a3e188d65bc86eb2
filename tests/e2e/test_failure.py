"""A shard dies under load; a server is told to stop; two servers side by side."""

import asyncio
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest

from router_service.client.client import Client
from router_service.protocol import inference_pb2 as pb
from tests.e2e.answers import Served, collect, streamed, tokens_of
from tests.e2e.server import Server, environment, gone, serving
from tests.e2e.shared_ray import SharedRay
from tests.support.tiny import greedy, random_prompts, write_checkpoint

# Processes end and others start within a test: on a busy machine that takes minutes.
pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(900)]

TOKENS = 150


async def test_a_shard_killed_under_16_streams_costs_no_answer(one: Served) -> None:
    prompts = random_prompts(16, seed=3)
    async with Client(one.server.target) as client:
        victim = (await client.cluster()).shards[1].pid
        started = asyncio.Event()
        calls = [asyncio.create_task(streamed(client, prompt, TOKENS, started)) for prompt in prompts]
        await asyncio.wait_for(started.wait(), 60)
        os.kill(victim, signal.SIGKILL)
        answers = await asyncio.gather(*calls)
        again = await collect(client, tokens=[9, 8, 7], max_tokens=8, temperature=0.0)
        pids = await asyncio.wait_for(_ready_again(client, 1, victim), 60)
    assert answers == [greedy(one.oracle, prompt, TOKENS) for prompt in prompts]
    assert tokens_of(again) == greedy(one.oracle, [9, 8, 7], 8)
    assert len(pids) == 1


async def _ready_again(client: Client, shard: int, victim: int) -> list[int]:
    """The processes that are the shard once it is ready and the victim is forgotten: reports come once a second."""
    while True:
        ready = [one.pid for one in (await client.cluster()).shards if one.shard == shard and one.state == "ready"]
        if ready and victim not in ready:
            return ready
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="timeout stops the group and systemd all of a unit"),
        pytest.param(signal.SIGINT, id="a terminal's Ctrl-C reaches the group"),
    ],
)
async def test_a_signal_lets_16_streams_end_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    """What a supervisor does, which stops only the process that it has started, is in test_update.py."""
    oracle = write_checkpoint(tmp_path, "mixtral")
    with serving(str(tmp_path), "--shards", "1", log=tmp_path / "log") as server:
        family = server.descendants()
        async with Client(server.target) as client:
            streams = [client.generate(tokens=[n, 1, 2], max_tokens=200, temperature=0.0) for n in range(16)]
            begun = [await anext(stream) for stream in streams]
            _send(server, number)
            rest = await asyncio.wait_for(asyncio.gather(*(_rest(stream) for stream in streams)), 120)
            code = await asyncio.to_thread(server.process.wait, 120)
        assert code == 0, server.log.read_text()
        assert tokens_of([begun[0], *rest[0]]) == greedy(oracle, [0, 1, 2], 200)
        for first, more in zip(begun, rest, strict=True):
            assert len(tokens_of([first, *more])) == 200
            assert [first, *more][-1].finish_reason == pb.LENGTH
        assert len(family) > 3
        assert not gone(family)


def _send(server: Server, number: int) -> None:
    """To the process and its group; SIGTERM also to those that have left the group."""
    others = server.descendants()
    os.killpg(server.process.pid, number)
    for pid in others if number == signal.SIGTERM else ():
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def _rest(stream: object) -> list[pb.GenerateResponse]:
    return [response async for response in stream]  # type: ignore[attr-defined]


async def test_two_servers_side_by_side(shared_ray: SharedRay, tmp_path: Path) -> None:
    """Each on a Ray of its own: one of the shared one, where two that `serve` has started are in test_update.py."""
    names = ("mixtral", "qwen3_moe")
    oracles = {name: write_checkpoint(tmp_path / name, name) for name in names}
    first, second = (str(tmp_path / name) for name in names)
    with (
        serving(first, "--shards", "1", log=tmp_path / "a.log") as a,
        serving(second, *shared_ray.joined_as("b"), "--shards", "1", "--routers", "2", log=tmp_path / "b.log") as b,
    ):
        for name, server in zip(names, (a, b), strict=True):
            async with Client(server.target) as client:
                answer = await collect(client, tokens=[3, 1, 4], max_tokens=16, temperature=0.0)
                assert tokens_of(answer) == greedy(oracles[name], [3, 1, 4], 16)
        await drained(a)
        async with Client(b.target) as client:
            assert await client.health()


async def drained(server: Server) -> None:
    """Drain the server by the Ray that its ready line names, where several run."""
    (address,) = re.findall(r"^ready .* ray=(\S+)$", server.log.read_text(), re.MULTILINE)
    command = (sys.executable, "-m", "cluster.cli.main", "drain", "--address", address, "--seconds", "5")
    process = await asyncio.create_subprocess_exec(*command, env=environment(), stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(process.communicate(), 120)
    assert (process.returncode, said.decode()) == (0, f"drained expertmesh of the Ray at {address}, processes: 1\n")
    async with Client(server.target) as client:
        with pytest.raises(grpc.aio.AioRpcError):
            await client.health(timeout=60)


async def test_streams_go_on_when_their_router_is_killed(shared_ray: SharedRay, tmp_path: Path) -> None:
    oracle = write_checkpoint(tmp_path, "mixtral")
    prompts = random_prompts(8, seed=5)
    # However long a busy machine takes to start a router.
    (tmp_path / "patient.yaml").write_text("front: {router_wait_seconds: 200}\n")
    arguments = (str(tmp_path), "--shards", "1", "--config", str(tmp_path / "patient.yaml"))
    with serving(*arguments, *shared_ray.joined_as("routed"), log=tmp_path / "log") as server:
        async with Client(server.target) as client:
            victim = server.router()
            started = asyncio.Event()
            calls = [asyncio.create_task(streamed(client, prompt, TOKENS, started)) for prompt in prompts]
            await asyncio.wait_for(started.wait(), 60)
            os.kill(victim, signal.SIGKILL)
            answers = await asyncio.gather(*calls)
    assert answers == [greedy(oracle, prompt, TOKENS) for prompt in prompts]
