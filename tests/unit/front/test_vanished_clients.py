"""Clients that are gone: their places are free, and their routers hear of it, whatever their requests wait for."""

import asyncio

import pytest

from router_service.client.client import Client
from router_service.front import grpc_server
from tests.unit.front.calls import collect
from tests.unit.front.front_fakes import FakeRouter, until
from tests.unit.front.front_world import World
from tests.unit.front.relay import Relay

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Front that asks its clients for a sign of life more often than every ten seconds."""
    monkeypatch.setattr(grpc_server, "KEEPALIVE_MS", 200)
    monkeypatch.setattr(grpc_server, "KEEPALIVE_TIMEOUT_MS", 1000)


async def waiting(world: World, where: str) -> FakeRouter | None:
    """A Front whose requests wait for a router, for their first token, or between two tokens."""
    router = None
    if where != "router":
        router = await world.router(stall_after_steps=0 if where == "prefill" else 2)
    client = await world.front()
    if router is not None:
        await client.wait_ready(10)
    return router


@pytest.mark.parametrize("where", ["router", "prefill", "decode"])
@pytest.mark.parametrize("how", ["silent", "cut"])
@pytest.mark.usefixtures("impatient")
async def test_a_vanished_client_frees_its_place(world: World, where: str, how: str) -> None:
    router = await waiting(world, where)
    async with Relay(world.server.grpc_port) as relay, Client(f"127.0.0.1:{relay.port}") as client:
        task = asyncio.create_task(collect(client, "hello", max_tokens=20, resume=False))
        await until(lambda: world.server.streams == 1)
        if router is not None:
            await until(lambda: bool(router.submits) and router.steps == router.stall_after_steps)
        if how == "cut":
            relay.cut()
        else:
            relay.silent = True
        await until(lambda: world.server.streams == 0)
        if router is not None:
            await until(lambda: not router.running)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class RawHttp2:
    """A connection to a Front that sends frames of HTTP/2 one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> "RawHttp2":
        connection = cls(*await asyncio.open_connection("127.0.0.1", port))
        connection.writer.write(PREFACE)
        connection.send(SETTINGS)
        return connection

    def send(self, kind: int, payload: bytes = b"", flags: int = 0) -> None:
        self.writer.write(len(payload).to_bytes(3) + bytes([kind, flags]) + bytes(4) + payload)

    async def next(self, kinds: tuple[int, ...]) -> tuple[int, int, bytes]:
        """The next frame of one of the kinds: its kind, flags and payload."""
        while True:
            head = await self._reader.readexactly(9)
            payload = await self._reader.readexactly(int.from_bytes(head[:3]))
            if head[3] in kinds:
                return head[3], head[4], payload


async def test_a_client_without_calls_may_ping(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the interval that is allowed; gRPC allows two hours without calls, and then says too_many_pings."""
    monkeypatch.setattr(grpc_server, "MIN_PING_MS", 10)
    await world.front()
    connection = await RawHttp2.open(world.server.grpc_port)
    for number in range(10):
        connection.send(PING, number.to_bytes(8))
        async with asyncio.timeout(60):
            kind, flags, payload = await connection.next((PING, GOAWAY))
        assert (kind, flags, payload) == (PING, ACK, number.to_bytes(8))
        await asyncio.sleep(0.02)
    connection.writer.close()
