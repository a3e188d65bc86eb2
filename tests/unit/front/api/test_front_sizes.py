"""Requests that are too large, where no token is needed: refused with the limit's name, counted, logged, not kept."""

import asyncio

import grpc
import pytest

from router_service.client.client import Client
from router_service.front.auth.grpc_interceptor import grpc_limit
from router_service.front.auth.refusals import LINES_AT_ONCE, Refusals
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.request_id import request_id_of
from tests.unit.front.calls import collect, ids_of
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World

LIMIT = 10_000
SAID = f"front.max_request_bytes is {LIMIT}: the request has "


@pytest.fixture
async def client(world: World) -> Client:
    await world.router()
    client = await world.front(max_request_bytes=LIMIT)
    await client.wait_ready(10)
    return client


def refused(world: World) -> dict[str, float]:
    families = world.server.metrics.registry.collect()
    (family,) = [one for one in families if one.name == "expertmesh_requests_refused"]
    return {one.labels["reason"]: one.value for one in family.samples if one.name.endswith("_total")}


async def error_of(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return caught.value


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.getMessage().startswith("refused")]


async def test_a_request_over_the_limit_is_refused_by_name(
    world: World, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    for call in (collect(client, "x" * LIMIT), client.tokenize("x" * (2 * LIMIT - 20))):
        error = await error_of(call)
        assert str(error.details()).startswith(SAID)
        assert request_id_of(error)
    assert refused(world) == {"size": 2}
    first, _ = lines(caplog)
    assert first.startswith("refused '/expertmesh.v1.Inference/Generate' from ipv4:127.0.0.1:")
    assert f"reason size, token unknown: {SAID}1" in first


async def test_the_largest_request_is_served(world: World, client: Client) -> None:
    room = LIMIT - pb.TokenizeRequest(prompt="x" * LIMIT, add_special_tokens=True).ByteSize()
    assert await client.tokenize("x" * (LIMIT + room))
    await error_of(client.tokenize("x" * (LIMIT + room + 1)))
    assert len(ids_of(await collect(client, "hello", max_tokens=2))) == 2
    assert refused(world) == {"size": 1}


async def test_one_that_is_not_even_read_leaves_its_trace_too(
    world: World, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """gRPC keeps such a message out of memory and says nothing to the server."""
    assert "larger than max" in str((await error_of(collect(client, "x" * (3 * LIMIT)))).details())
    await until(lambda: refused(world) == {"unread": 1})
    (line,) = lines(caplog)
    assert "'/expertmesh.v1.Inference/Generate' from a client, reason unread" in line


async def test_ordinary_ends_are_no_refusals(world: World, client: Client) -> None:
    """Answers, errors of the request, a client that leaves its stream: all of them were read."""
    assert await client.tokenize("hello")
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(client, "hello", top_p=2)
    world.routers[0].stall_after_steps = world.routers[0].steps
    leaving = asyncio.create_task(collect(client, "hello"))
    await until(lambda: bool(world.routers[0].submits))
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await until(lambda: len(world.routers[0].cancels) == 1)
    assert refused(world) == {}


async def test_a_flood_is_counted_and_not_logged_line_by_line(
    world: World, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    authenticator = world.server.authenticator
    authenticator.refusals = Refusals(
        authenticator.refusals.count, lambda: 0.0
    )  # the flood takes no time, however long the machine does
    await asyncio.gather(*(error_of(client.tokenize("x" * LIMIT)) for _ in range(60)))
    assert refused(world) == {"size": 60}
    assert len(lines(caplog)) == LINES_AT_ONCE


def test_what_grpc_reads_is_bounded() -> None:
    """gRPC's own limit is a signed number of 32 bits."""
    assert grpc_limit(16 << 20) == 32 << 20
    assert grpc_limit(1 << 31) == grpc_limit(1 << 40) == (1 << 31) - 1
