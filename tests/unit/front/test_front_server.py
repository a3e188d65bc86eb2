"""Health, reflection, drain, limits of the server itself."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import aiohttp
import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from router_service.client.client import Client
from router_service.front import server
from router_service.front.config import FrontConfig
from router_service.front.server import SERVICES, FrontServer
from router_service.protocol import inference_pb2 as pb
from router_service.text.text_model import TextModel
from tests.unit.front.calls import Responses, check_one_end, collect, ids_of
from tests.unit.front.front_fakes import CREDENTIALS, WAIT_S, card, failing, report, until
from tests.unit.front.front_world import World


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Front whose calls have as long for their last message as they need."""
    monkeypatch.setattr(server, "FINAL_MESSAGE_S", WAIT_S)


async def test_health_follows_the_links(world: World) -> None:
    client = await world.front()
    assert not await client.health()
    with pytest.raises(TimeoutError):
        await client.wait_ready(0.2)
    router = await world.router()
    await client.wait_ready(WAIT_S)
    for service in SERVICES:
        assert await client.health(service)
    world.endpoints.clear()
    router.cut()
    await until(lambda: world.server.linked_routers == 0)
    await until_health(client, False)


async def until_health(client: Client, serving: bool) -> None:
    async with asyncio.timeout(WAIT_S):
        while await client.health() != serving:
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("patient")
async def test_a_watcher_of_health_hears_of_the_drain(world: World) -> None:
    _, _ = await world.serve()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        drain = asyncio.create_task(world.server.drain(5))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await drain


async def test_reflection_lists_and_describes_the_services(world: World) -> None:
    await world.front()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[0]),
        ]
        answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= names
    assert answers[1].file_descriptor_response.file_descriptor_proto


async def test_a_drain_lets_streams_end_and_refuses_new_ones(world: World) -> None:
    refused = asyncio.Event()
    world.sleep = paused(refused.wait)
    router, client = await world.serve(stall_after_steps=3)  # or it might end before the other is refused
    running = asyncio.create_task(collect(client, "hello world", max_tokens=40))
    await until(lambda: router.steps == 3)
    drain = asyncio.create_task(world.server.drain(WAIT_S))
    await until(lambda: world.server.admission.draining)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello")
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    refused.set()
    router.stall_after_steps = None
    responses = await running
    check_one_end(responses)
    assert responses[-1].finish_reason == pb.LENGTH
    assert len(ids_of(responses)) == 40
    await drain
    with pytest.raises(grpc.aio.AioRpcError):
        await client.health()


async def test_load_balancers_have_notice_of_a_drain(world: World) -> None:
    """Within the notice health is NOT_SERVING, and who has not heard of it is served."""
    over = asyncio.Event()

    async def notice(seconds: float) -> None:
        if seconds == 7.0:
            await over.wait()

    world.sleep = notice
    world.metrics_port = 0
    _, client = await world.serve()
    assert await healthz(world) == (200, {"status": "serving", "routers": 1})
    drain = asyncio.create_task(world.server.drain(WAIT_S, notice_s=7.0))
    await until_health(client, False)
    assert await healthz(world) == (503, {"status": "draining", "routers": 1})
    check_one_end(await collect(client, "hello", max_tokens=3))
    over.set()
    await asyncio.wait_for(drain, WAIT_S)
    with pytest.raises(grpc.aio.AioRpcError):
        await client.health()


async def test_a_client_that_stays_connected_is_sent_away(world: World) -> None:
    """A service's address leads to one Front at a time: the client's next call must get a new connection, at once."""
    router, client = await world.serve(stall_after_steps=3)  # it outlives the start of another Front
    port = world.server.grpc_port
    running = asyncio.create_task(collect(client, "hello world", max_tokens=40))
    await until(lambda: router.steps == 3)
    old = world.server
    drain = asyncio.create_task(old.drain(WAIT_S))
    await until(lambda: old.streams == 1 and old.admission.draining)
    world.endpoints.clear()  # the other Front needs a router that does not stall
    await world.router(name="r1")
    await front_at(world, port)
    await client.wait_ready(WAIT_S)
    check_one_end(await collect(client, "hello", max_tokens=3))
    assert not running.done()
    router.stall_after_steps = None
    assert len(ids_of(await running)) == 40
    await drain


async def test_calls_that_a_drain_meets_are_refused_by_name(world: World) -> None:
    """gRPC would cancel those that it has not handed over yet when its server stops."""
    codes: list[grpc.StatusCode] = []
    world.sleep = paused(lambda: until(lambda: len(codes) == 32))
    await world.serve()
    target = f"127.0.0.1:{world.server.grpc_port}"
    asking = [asyncio.create_task(ask_until_refused(target, codes)) for _ in range(32)]
    await until(lambda: world.routers[0].steps > 50)
    await world.server.drain(WAIT_S)
    await asyncio.gather(*asking)
    assert codes == [grpc.StatusCode.UNAVAILABLE] * 32


def paused(wait: Callable[[], Awaitable[object]]) -> Callable[[float], Awaitable[None]]:
    """The sleep of a Front that refuses as long as `wait` takes before it stops its server: the machine may be slow."""

    async def sleep(seconds: float) -> None:
        if seconds == server.QUEUED_S:
            await wait()

    return sleep


async def ask_until_refused(target: str, codes: list[grpc.StatusCode]) -> None:
    async with Client(target) as client:
        try:
            while True:
                await collect(client, "hello", max_tokens=3)
        except grpc.aio.AioRpcError as error:
            codes.append(error.code())


async def test_a_client_connects_anew_after_a_while_and_loses_nothing(world: World) -> None:
    """Where the address then leads to another Front, it is there before the first one ends."""
    await world.router()
    old = await world.front(connection_age_seconds=0.2, reuse_port=True)
    port = world.server.grpc_port
    await old.wait_ready(WAIT_S)
    assert len(ids_of(await collect(old, "hello", max_tokens=4))) == 4
    first, second = world.server, await world.front(grpc_port=port, reuse_port=True)
    await second.wait_ready(WAIT_S)
    for _ in range(200):
        assert len(ids_of(await collect(old, "hello", max_tokens=4))) == 4
        if requests(world.server):
            break
        await asyncio.sleep(0.05)
    assert requests(first) > 0
    assert requests(world.server) > 0


def requests(front: FrontServer) -> float:
    """How many a Front has answered."""
    labels = {"model": "tiny", "finished_reason": "length"}
    return front.metrics.registry.get_sample_value("expertmesh_request_success_total", labels) or 0.0


async def front_at(world: World, port: int) -> None:
    """Start a Front on a port that another is about to let go."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(OSError):
                await world.front(grpc_port=port)
                return
            await asyncio.sleep(0.05)


async def test_a_leaving_router_gets_new_streams_only_while_it_is_the_last(world: World) -> None:
    first, client = await world.serve(step_s=0.1)
    running = asyncio.create_task(collect(client, "hello world", max_tokens=20))
    await until(lambda: bool(first.submits))
    first.say(report(leaving=True))
    await until(lambda: world.server.router_pool.links[0].leaving)
    assert await client.health()
    check_one_end(await collect(client, "hello", max_tokens=3))
    second = await world.router(name="r1")
    await until(lambda: world.server.linked_routers == 2)
    for _ in range(3):
        check_one_end(await collect(client, "hello", max_tokens=3))
    assert (len(first.submits), len(second.submits)) == (2, 3)
    assert len(ids_of(await running)) == 20


async def test_health_is_down_while_shards_are_missing(world: World) -> None:
    world.metrics_port = 0
    router, client = await world.serve()
    router.say(report(ready=False))
    await until_health(client, False)
    assert await healthz(world) == (503, {"status": "shards are missing", "routers": 1})
    router.say(report(ready=True))
    await client.wait_ready(WAIT_S)


async def healthz(world: World) -> tuple[int, dict[str, object]]:
    """The status and the body of /healthz on the metrics port."""
    url = f"http://127.0.0.1:{world.server.metrics_port}/healthz"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


@pytest.mark.usefixtures("patient")
async def test_streams_that_outlive_the_grace_end_as_cancelled(world: World) -> None:
    router, client = await world.serve(stall_after_steps=3)
    stream = client.generate("hello world", max_tokens=40)
    responses: Responses = []
    while len(ids_of(responses)) < 3:
        responses.append(await anext(stream))
    running = asyncio.create_task(rest_of(stream))
    await world.server.drain(0.2)
    responses += await running
    check_one_end(responses)
    assert responses[-1].finish_reason == pb.CANCELLED
    assert responses[-1].usage.generated_tokens == 3
    await until(lambda: not router.running)


async def rest_of(stream: AsyncIterator[pb.GenerateResponse]) -> Responses:
    return [response async for response in stream]


async def test_a_taken_port_is_an_error_that_names_it(world: World, text: TextModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for field in ("grpc_port", "metrics_port"):
            front = FrontServer(
                config=FrontConfig(**{field: port}),
                text=text,
                card=card(),
                endpoints=world.list_endpoints,
                credentials=CREDENTIALS,
                node="node",
            )
            with pytest.raises(OSError, match=str(port) if field == "grpc_port" else "in use"):
                await front.start()
            await front.stop()


async def test_a_fault_of_ours_is_internal_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    client = await world.front(failing(world.text, ZeroDivisionError("a bug")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    (record,) = [record for record in caplog.records if record.message == "a call failed"]
    stack = record.fields["stack"]  # type: ignore[attr-defined]
    assert "in encode" in stack
    assert stack.endswith("ZeroDivisionError")
    assert "a bug" not in stack.splitlines()[-1]  # a message may quote what the client sent


@pytest.mark.parametrize(
    "wrong",
    [{"grpc_port": 70000}, {"max_concurrent_streams": 0}, {"router_wait_seconds": -1.0}, {"poll_seconds": 0.0}],
)
def test_settings_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FrontConfig(**wrong)  # type: ignore[arg-type]
