"""Clients that leave, that do not read, and that keep their connection."""

import asyncio
import json
import socket

import pytest

from tests.unit.front.api.test_slow_readers import endless
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, call

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}


def failures(world: World) -> dict[str, float]:
    (family,) = [one for one in world.server.metrics.registry.collect() if one.name == "expertmesh_request_failures"]
    return {one.labels["code"]: one.value for one in family.samples if one.name.endswith("_total") and one.value}


@pytest.mark.parametrize("where", ["router", "prefill", "decode"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_request(world: World, where: str, stream: bool) -> None:
    router = None
    if where != "router":
        router = await world.router(stall_after_steps=0 if where == "prefill" else 2)
    client = await world.front(http_port=0)
    if router is not None:
        await client.wait_ready(10)
    async with Caller(world.server.http_port) as caller:
        task = asyncio.create_task(caller.refused(CHAT, **BODY, stream=stream))
        await until(lambda: world.server.streams == 1)
        if router is not None:
            await until(lambda: bool(router.submits) and router.steps == router.stall_after_steps)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: world.server.streams == 0)
        if router is not None:
            await until(lambda: not router.running)
    await until(lambda: failures(world) == {"CANCELLED": 1})


async def test_a_client_that_leaves_cancels_all_its_prompts(world: World) -> None:
    router, caller = await call(world, stall_after_steps=0)
    async with caller:
        task = asyncio.create_task(caller.refused("/v1/completions", prompt=["a", "b", "c"], n=2))
        await until(lambda: world.server.streams == 6)  # two answers to each
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: world.server.streams == 0)
        await until(lambda: not router.running)


async def test_a_slow_reader_loses_its_stream(world: World) -> None:
    router = await world.router(script=endless)
    client = await world.front(http_port=0, slow_reader_seconds=0.1, max_buffered_tokens=1 << 30)
    await client.wait_ready(10)
    narrow = socket.create_connection(("127.0.0.1", world.server.http_port))
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader, writer = await asyncio.open_connection(sock=narrow, limit=1024)
    asked = {"max_tokens": 4000, "stream": True, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
    body = json.dumps(BODY | asked)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    await until(lambda: world.server.streams == 0)
    await until(lambda: not router.running)
    assert failures(world) == {"RESOURCE_EXHAUSTED": 1}
    writer.transport.abort()


async def test_a_connection_serves_one_request_after_another(caller: Caller) -> None:
    connector = caller.session.connector
    assert connector is not None
    for _ in range(3):
        await caller.chat(max_tokens=2)
        await caller.stream(CHAT, **BODY)
    async with caller.session.post(CHAT, json=BODY) as response:
        assert response.headers.get("Connection", "keep-alive") == "keep-alive"
