"""A client that sends again what was refused, and never what was accepted."""

import asyncio

import grpc
import pytest

from router_service.client.client import Client
from router_service.protocol import inference_pb2 as pb
from tests.unit.front.front_fakes import refuse, until
from tests.unit.front.front_world import World


async def answer(client: Client) -> list[pb.GenerateResponse]:
    return [response async for response in client.generate("hello", max_tokens=2)]


def again(world: World, attempts: int) -> Client:
    world.clients.append(Client(f"127.0.0.1:{world.server.grpc_port}", attempts=attempts))
    return world.clients[-1]


def refused(world: World) -> float:
    labels = {"model": "tiny", "code": "UNAVAILABLE"}
    return world.server.metrics.registry.get_sample_value("expertmesh_request_failures_total", labels) or 0.0


async def test_a_call_that_is_refused_for_a_while_is_answered(world: World) -> None:
    router, _ = await world.serve()
    world.server.admission.refuse()
    asked = asyncio.create_task(answer(again(world, attempts=5)))
    await until(lambda: refused(world) >= 1)
    assert not asked.done()
    world.server.admission.draining = False
    responses = await asked
    assert sum(len(response.token_ids) for response in responses) == 2
    assert len(router.submits) == 1


async def test_attempts_end(world: World) -> None:
    await world.serve()
    world.server.admission.refuse()
    with pytest.raises(grpc.aio.AioRpcError, match="the server is draining"):
        await answer(again(world, attempts=2))
    assert refused(world) == 2


async def test_by_default_a_call_is_sent_once(world: World) -> None:
    _, client = await world.serve()
    world.server.admission.refuse()
    with pytest.raises(grpc.aio.AioRpcError, match="the server is draining"):
        await answer(client)
    assert refused(world) == 1


async def test_what_was_accepted_is_never_sent_again(world: World) -> None:
    """It may have produced tokens, and would be paid for twice."""
    router, _ = await world.serve(script=refuse("UNAVAILABLE", "shard 1 is away"))
    with pytest.raises(grpc.aio.AioRpcError, match="shard 1 is away"):
        await answer(again(world, attempts=5))
    assert len(router.submits) == 1


async def test_health_is_asked_once(world: World) -> None:
    """Who waits for a server asks it again and again: pauses in between would only keep the answer from them."""
    await world.serve()
    client = again(world, attempts=5)
    await world.server.stop()
    async with asyncio.timeout(60):
        codes = [await code_of(client) for _ in range(20)]  # with pauses each would take some seconds
    assert set(codes) == {grpc.StatusCode.UNAVAILABLE}


async def code_of(client: Client) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.health()
    return caught.value.code()


@pytest.mark.parametrize("attempts", [0, -1, 6])
async def test_how_often_has_bounds(attempts: int) -> None:
    with pytest.raises(ValueError, match=f"attempts: {attempts} is not within 1 to 5"):
        Client("127.0.0.1:1", attempts=attempts)
