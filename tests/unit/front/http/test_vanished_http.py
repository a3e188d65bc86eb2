"""Clients of HTTP that vanish without a word: the kernel finds them, whatever their requests wait for."""

import asyncio
import ssl
from collections.abc import Coroutine
from typing import Any

import psutil
import pytest

from router_service.front.http import body, vanished
from tests.unit.front.front_fakes import FakeRouter, until
from tests.unit.front.front_world import World
from tests.unit.front.http_world import Browser
from tests.unit.front.openai.caller import Caller
from tests.unit.front.pki import Pki
from tests.unit.front.relay import Relay

ASKED = {"prompt": "hello", "max_tokens": 1000}
# The steps after which the router falls silent; None is one that goes on, so that answers are always being written.
STALLS = {"prefill": 0, "decode": 2, "writing": None}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fronts that ask who says nothing for a second; nothing else ends a request here."""
    monkeypatch.setattr(vanished, "IDLE_SECONDS", 1)
    monkeypatch.setattr(vanished, "AGAIN_SECONDS", 1)
    monkeypatch.setattr(body, "BODY_SECONDS", 1000.0)


async def waiting(world: World, where: str, **options: object) -> FakeRouter | None:
    router = None
    if where != "router":
        router = await world.router(stall_after_steps=STALLS[where], step_s=0.02)
    await world.front(http_port=0, slow_reader_seconds=0.5, **options)
    if router is not None:
        await until(lambda: world.server.health.serving)
    return router


async def vanishes(world: World, router: FakeRouter | None, tls: ssl.SSLContext | None = None) -> None:
    """A browser whose request waits is gone; the request's place becomes free, and its router hears of it."""
    async with Relay(world.server.http_port) as relay, Browser(relay.port, tls=tls) as browser:
        await lost(world, router, relay, browser.generate(**ASKED))


async def lost(world: World, router: FakeRouter | None, relay: Relay, asking: Coroutine[Any, Any, object]) -> None:
    """Ask, lose the client while it waits, and wait for the end of all that it asked for."""
    task = asyncio.create_task(asking)
    await until(lambda: world.server.streams > 0)
    if router is not None:
        await until(lambda: bool(router.submits) and router.steps >= (router.stall_after_steps or 0))
    relay.vanish()
    await until(lambda: world.server.streams == 0)
    if router is not None:
        await until(lambda: not router.running)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("where", ["router", *STALLS])
@pytest.mark.usefixtures("impatient")
async def test_a_vanished_browser_frees_its_place(world: World, where: str) -> None:
    await vanishes(world, await waiting(world, where))


@pytest.mark.parametrize("where", ["router", "prefill"])
@pytest.mark.usefixtures("impatient")
async def test_a_vanished_browser_behind_tls_frees_its_place(world: World, pki: Pki, where: str) -> None:
    router = await waiting(world, where, **pki.settings())
    await vanishes(world, router, ssl.create_default_context(cafile=str(pki.ca)))


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "n": 2},
    "/v1/completions": {"prompt": ["a", "b"]},
    "/v1/responses": {"input": "hi"},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.usefixtures("impatient")
async def test_a_vanished_program_frees_its_places(world: World, path: str, stream: bool) -> None:
    """Also one that waits for its whole answer, to which nothing has been written yet."""
    router = await waiting(world, "decode")
    async with Relay(world.server.http_port) as relay, Caller(relay.port) as caller:
        await lost(world, router, relay, caller.post(path, stream=stream, **BODIES[path]))


HOST = "127.0.0.1:8000"
HEAD = f"POST /api/generate HTTP/1.1\r\nHost: {HOST}\r\nOrigin: http://{HOST}\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize("sent", ["", "POST /api/gen", HEAD, HEAD + 'Content-Length: 100\r\n\r\n{"prompt":'])
@pytest.mark.usefixtures("impatient")
async def test_who_vanishes_while_it_sends_is_noticed(world: World, sent: str) -> None:
    """Before a word, within the head, and within the body: its connection ends."""
    await world.front(http_port=0, slow_reader_seconds=0.5)
    port = world.server.http_port
    async with Relay(port) as relay:
        _, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(sent.encode())
        await until(lambda: connections(port) == 1 and relay.sent == len(sent))
        relay.vanish()
        await until(lambda: not connections(port))
        writer.close()


def connections(port: int) -> int:
    """How many clients are connected to a port of this process."""
    found = psutil.Process().net_connections("tcp")
    return sum(one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED for one in found)
