"""Health, reflection, drain, limits of the server itself."""

import asyncio
import socket

import grpc
import grpc.aio
import pytest
from front_fakes import SECRET, card, until
from front_world import World
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from test_front_generate import check_one_end, collect, ids_of

from router_service.front.config import FrontConfig
from router_service.front.server import SERVICES, FrontServer
from router_service.front.text_model import TextModel
from router_service.protocol import inference_pb2 as pb


async def test_health_follows_the_links(world: World) -> None:
    client = await world.front()
    assert not await client.health()
    with pytest.raises(TimeoutError):
        await client.wait_ready(0.2)
    router = await world.router()
    await client.wait_ready(5)
    for service in SERVICES:
        assert await client.health(service)
    world.endpoints.clear()
    router.cut()
    await until(lambda: world.server.linked_routers == 0)
    assert not await client.health()


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
    router, client = await world.serve(step_s=0.01)
    running = asyncio.create_task(collect(client, "hello world", max_tokens=40))
    await until(lambda: bool(router.submits))
    drain = asyncio.create_task(world.server.drain(30))
    await asyncio.sleep(0.05)
    assert not await client.health()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello")
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.UNAVAILABLE,
        "the server is draining",
    )
    responses = await running
    check_one_end(responses)
    assert responses[-1].finish_reason == pb.LENGTH
    assert len(ids_of(responses)) == 40
    await drain
    with pytest.raises(grpc.aio.AioRpcError):
        await client.health()


async def test_streams_that_outlive_the_grace_end_as_cancelled(world: World) -> None:
    router, client = await world.serve(stall_after_steps=3)
    running = asyncio.create_task(collect(client, "hello world", max_tokens=40))
    await until(lambda: router.steps == 3)
    await world.server.drain(0.2)
    responses = await running
    check_one_end(responses)
    assert responses[-1].finish_reason == pb.CANCELLED
    assert responses[-1].usage.generated_tokens == 3
    await until(lambda: not router.running)


async def test_a_taken_port_is_an_error_that_names_it(world: World, text: TextModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for field in ("grpc_port", "metrics_port"):
            front = FrontServer(FrontConfig(**{field: port}), text, card(), world._list, SECRET, "node")
            with pytest.raises(OSError, match=str(port) if field == "grpc_port" else "in use"):
                await front.start()
            await front.stop()


async def test_a_fault_of_ours_is_internal_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    _, client = await world.serve()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    world.server._inference._answer = broken  # type: ignore[assignment]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    (record,) = [record for record in caplog.records if record.message == "a call failed"]
    stack = record.fields["stack"]  # type: ignore[attr-defined]
    assert "in broken" in stack
    assert stack.endswith("ZeroDivisionError")
    assert "a bug" not in stack.splitlines()[-1]  # a message may quote what the client sent


@pytest.mark.parametrize(
    "wrong",
    [{"grpc_port": 70000}, {"max_concurrent_streams": 0}, {"router_wait_s": -1.0}, {"poll_s": 0.0}],
)
def test_settings_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FrontConfig(**wrong)  # type: ignore[arg-type]
