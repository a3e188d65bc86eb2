"""Bytes that are no message, to every method of every service."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from router_service.front.auth.tokens import Role, new_token
from router_service.protocol import cluster_pb2, inference_pb2, open_inference_pb2
from router_service.protocol.request_id import REQUEST_ID_KEY, request_id_of
from router_service.text.text_model import TextModel
from tests.unit.front.front_world import World

METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in (inference_pb2, cluster_pb2, open_inference_pb2, health_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
GARBAGE = b"\xff" * 9


async def send(channel: grpc.aio.Channel, name: str, data: bytes, metadata: object = ()) -> list[bytes]:
    method = METHODS[name]
    if method.client_streaming:
        call = channel.stream_stream(name)(iter([data]), metadata=metadata)
        return [answer async for answer in call]
    if method.server_streaming:
        return [answer async for answer in channel.unary_stream(name)(data, metadata=metadata)]
    return [await channel.unary_unary(name)(data, metadata=metadata)]


async def refusal(channel: grpc.aio.Channel, name: str, data: bytes, metadata: object = ()) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(channel, name, data, metadata)
    return caught.value


@pytest.fixture
async def channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    await world.serve()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        yield channel


def unreadable(world: World) -> float:
    labels = {"model": "tiny", "reason": "unreadable"}
    return world.server.metrics.registry.get_sample_value("expertmesh_requests_refused_total", labels) or 0.0


@pytest.mark.parametrize("name", METHODS)
async def test_it_is_refused_by_its_own_status_and_counted(
    world: World, channel: grpc.aio.Channel, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = await refusal(channel, name, GARBAGE, ((REQUEST_ID_KEY, "mine"),))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the message of 9 bytes cannot be parsed" in str(error.details())
    assert request_id_of(error) not in {"", "mine"}
    assert unreadable(world) == 1
    assert [(record.levelno, record.exc_info) for record in caplog.records if record.levelno > logging.INFO] == [
        (logging.WARNING, None)
    ]
    # The connection, and the Front, go on.
    assert await send(channel, "/expertmesh.v1.Inference/GetModel", b"")


async def test_what_a_stranger_sends_is_not_parsed(world: World, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(new_token("ann", Role.INFERENCE)[1])
    await world.front(tokens_file=str(tmp_path / "tokens"))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        error = await refusal(channel, "/expertmesh.v1.Inference/Generate", GARBAGE)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert unreadable(world) == 0


def can_parse(name: str, data: bytes) -> bool:
    try:
        GetMessageClass(METHODS[name].input_type).FromString(data)
    except DecodeError:
        return False
    return True


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(METHODS)), data=st.binary(min_size=1, max_size=200))
def test_random_bytes_are_refused_in_the_same_way(
    loop: asyncio.AbstractEventLoop, fuzzed: grpc.aio.Channel, name: str, data: bytes
) -> None:
    assume(not can_parse(name, data))
    assert loop.run_until_complete(refusal(fuzzed, name, data)).code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def fuzzed(text: TextModel, loop: asyncio.AbstractEventLoop) -> Iterator[grpc.aio.Channel]:
    """A channel to a Front that lives as long as all examples of a test."""
    world = World(text)

    async def open() -> grpc.aio.Channel:
        await world.front()
        return grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}")

    channel = loop.run_until_complete(open())
    yield channel
    loop.run_until_complete(channel.close())
    loop.run_until_complete(world.close())
