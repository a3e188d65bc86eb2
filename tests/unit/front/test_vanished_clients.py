"""Clients that are gone: their places are free, and their routers hear of it, whatever their requests wait for."""

import asyncio

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router_service.client.channel import Tls
from router_service.client.client import Client
from router_service.front import grpc_server
from router_service.front.config import FrontConfig
from router_service.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.unit.front.calls import collect
from tests.unit.front.front_fakes import FakeRouter, until
from tests.unit.front.front_world import World
from tests.unit.front.kserve.asking import asked
from tests.unit.front.pki import Pki
from tests.unit.front.relay import ACK, GOAWAY, HEAD, PING, SETTINGS, Http2Relay, Relay

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Front that asks its clients for a sign of life more often than every ten seconds."""
    monkeypatch.setattr(grpc_server, "KEEPALIVE_MS", 200)
    monkeypatch.setattr(grpc_server, "KEEPALIVE_TIMEOUT_MS", 1000)


# The steps after which the router falls silent; None is one that goes on, so that answers are always being written.
STALLS = {"prefill": 0, "decode": 2, "writing": None}


async def waiting(world: World, where: str, **options: object) -> FakeRouter | None:
    """A Front whose requests wait for a router, for their first token, or between two tokens."""
    router = None
    if where != "router":
        router = await world.router(stall_after_steps=STALLS[where], step_s=0.02)
    await world.front(**options)
    if router is not None:
        await until(lambda: world.server.health.serving)
    return router


@pytest.mark.parametrize("where", ["router", *STALLS])
@pytest.mark.parametrize("how", ["silent", "vanish", "cut"])
@pytest.mark.usefixtures("impatient")
async def test_a_vanished_client_frees_its_place(world: World, where: str, how: str) -> None:
    router = await waiting(world, where)
    async with Relay(world.server.grpc_port) as relay, Client(f"127.0.0.1:{relay.port}") as client:
        await ends(world, router, relay, client, how)


@pytest.mark.parametrize("where", ["router", "prefill"])
@pytest.mark.usefixtures("impatient")
async def test_a_vanished_client_behind_tls_frees_its_place(world: World, pki: Pki, where: str) -> None:
    router = await waiting(world, where, **pki.settings())
    async with Relay(world.server.grpc_port) as relay, Client(f"localhost:{relay.port}", tls=Tls(pki.ca)) as client:
        await ends(world, router, relay, client, "vanish")


async def ends(world: World, router: FakeRouter | None, relay: Relay, client: Client, how: str) -> None:
    """Lose a client whose request waits; its place becomes free, and its router hears of it."""
    task = asyncio.create_task(collect(client, "hello", max_tokens=2000, resume=False))
    await lost(world, router, relay, how)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def lost(world: World, router: FakeRouter | None, relay: Relay, how: str) -> None:
    """Wait for the request, lose its client, and wait for its end."""
    await until(lambda: world.server.streams == 1)
    if router is not None:
        await until(lambda: bool(router.submits) and router.steps >= (router.stall_after_steps or 0))
    lose(relay, how)
    await until(lambda: world.server.streams == 0)
    if router is not None:
        await until(lambda: not router.running)


def lose(relay: Relay, how: str) -> None:
    """Lose the clients of a relay: nobody answers, nobody even acknowledges, or the connection breaks."""
    if how == "cut":
        relay.cut()
    elif how == "vanish":
        relay.vanish()
    else:
        relay.silent = True


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.usefixtures("impatient")
async def test_a_vanished_platform_frees_its_place(world: World, stream: bool) -> None:
    """Of the Open Inference Protocol, whose streams carry requests too."""
    router = await waiting(world, "prefill")
    async with Relay(world.server.grpc_port) as relay, grpc.aio.insecure_channel(f"127.0.0.1:{relay.port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter([asked("a", stream=True)])) if stream else stub.ModelInfer(asked("a"))
        await lost(world, router, relay, "vanish")
        call.cancel()


@pytest.mark.usefixtures("impatient")
async def test_a_vanished_watcher_of_health_is_forgotten(world: World) -> None:
    """What streams without being a request is no different."""
    await world.serve()
    async with Relay(world.server.grpc_port) as relay, grpc.aio.insecure_channel(f"127.0.0.1:{relay.port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        relay.vanish()
        await until(lambda: world.server.health_service.watches == 0)


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
            head = await self._reader.readexactly(HEAD)
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


# As many libraries set them: a ping every ten seconds, on a connection without calls too.
PINGING = [
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
]


@pytest.mark.parametrize(("seconds", "calling"), [(10, False), (5, False), (5, True)])
async def test_a_client_of_grpc_may_send_keepalives(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: int, calling: bool
) -> None:
    """Its own core pings, every second, the least that it does; the Front's margin is shorter likewise."""
    monkeypatch.setattr(grpc_server, "MIN_PING_MS", grpc_server.MIN_PING_MS // seconds)
    await world.router(stall_after_steps=0)
    await world.front()
    options = [*PINGING, ("grpc.keepalive_time_ms", 1000)]
    async with (
        Http2Relay(world.server.grpc_port) as relay,
        grpc.aio.insecure_channel(f"127.0.0.1:{relay.port}", options) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest())
        watch = stub.Watch(health_pb2.HealthCheckRequest()) if calling else None
        if watch is not None:
            await watch.read()
        # The third that comes too early ends the connection.
        await until(lambda: relay.answered >= 5 or relay.farewells > 0)
        assert (relay.farewells, relay.connections) == (0, 1)


def test_pings_may_come_twice_as_often_as_clients_send_them() -> None:
    options = dict(grpc_server.server_options(FrontConfig()))
    assert options["grpc.http2.min_ping_interval_without_data_ms"] <= 2_500
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert options["grpc.keepalive_time_ms"] + options["grpc.keepalive_timeout_ms"] <= 60_000
