"""A request that may itself be what ends its routers is not sent to every router in turn, however they end."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from experts.transport.address import new_incarnation
from router_service.protocol.messages import StreamOutput, Submit
from tests.unit.front.calls import collect
from tests.unit.front.front_fakes import refuse, until
from tests.unit.front.front_world import World

GIVEN_UP = "was in flight when 2 routers ended"


async def failure_of(task: "asyncio.Task[object]") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await task
    return caught.value


async def test_routers_that_fall_silent_with_it_are_as_many_as_it_may_lose(world: World) -> None:
    """They hang: the connection stays, and nothing comes over it. A stopped router is no proof against the request."""
    routers = [await world.router(name=f"r{n}", stall_after_steps=0) for n in range(3)]
    client = await world.front(max_resubmits=1)
    await until(lambda: world.server.linked_routers == 3)
    task = asyncio.create_task(collect(client, "hello", max_tokens=50))
    for lost in (1, 2):
        await until(lambda lost=lost: sum(bool(router.submits) for router in routers) == lost)  # type: ignore[misc]
        await world.quiet(but=[router for router in routers if not router.submits])
    error = await failure_of(task)  # type: ignore[arg-type]
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "has lost its router too often" in str(error.details())
    assert sum(len(router.submits) for router in routers) == 2


async def test_the_same_router_counts_again_when_it_was_restarted(world: World) -> None:
    router = await world.router()
    client = await world.front(max_resubmits=100)
    await client.wait_ready(10)

    def ends(_: Submit) -> Iterator[StreamOutput]:
        router.incarnation = new_incarnation()  # what answers next is another process
        world.endpoints[:] = [router.endpoint]
        router.cut()
        return iter(())

    router.script = ends
    error = await failure_of(asyncio.create_task(collect(client, "hello", max_tokens=50)))  # type: ignore[arg-type]
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert GIVEN_UP in str(error.details())
    assert len(router.submits) == 2


@pytest.mark.parametrize("code", ["INTERNAL", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE"])
async def test_a_failure_that_a_router_states_is_final(world: World, code: str) -> None:
    first, second = [await world.router(name=f"r{n}", script=refuse(code, "out of luck")) for n in range(2)]
    client = await world.front(max_resubmits=100)
    await until(lambda: world.server.linked_routers == 2)
    error = await failure_of(asyncio.create_task(collect(client, "hello", max_tokens=50)))  # type: ignore[arg-type]
    assert (error.code().name, error.details()) == (code, "out of luck")
    assert len(first.submits) + len(second.submits) == 1
