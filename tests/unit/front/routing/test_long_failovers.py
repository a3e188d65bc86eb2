"""Answers that are long when their router is lost, and routers that cannot take them, or not yet."""

import asyncio
from collections.abc import Callable, Iterator

import grpc
import pytest

from router_service.front.routing import failover_stream
from router_service.protocol.messages import StreamOutput, Submit
from tests.unit.front.calls import check_one_end, collect, ids_of
from tests.unit.front.front_fakes import WAIT_S, echo, refuse, until
from tests.unit.front.front_world import World

CONTEXT = 40_000
LONG = 20_000


async def test_a_long_answer_goes_on(world: World) -> None:
    """Its second router gets twenty thousand tokens of it, as many at once as no prompt of one step."""
    world.context = CONTEXT
    first = await world.router(context=CONTEXT, stall_after_steps=LONG)
    client = await world.front(max_buffered_tokens=CONTEXT)
    await client.wait_ready(WAIT_S)
    task = asyncio.create_task(collect(client, "hello world fox", max_tokens=LONG + 50))
    await until(lambda: first.steps == LONG)
    world.endpoints.clear()
    second = await world.router(name="r1", context=CONTEXT)
    await until(lambda: world.server.linked_routers == 2)
    first.cut()
    responses = await task
    check_one_end(responses)
    (submit,) = second.submits
    assert len(submit.generated) == LONG
    assert ids_of(responses) == [submit.prompt[n % len(submit.prompt)] for n in range(LONG + 50)]


async def test_a_router_that_is_too_small_for_it_is_not_chosen(world: World) -> None:
    """It came after the request was checked against those that were there."""
    first, client = await world.serve(stall_after_steps=2)
    task = asyncio.create_task(collect(client, "hello", max_tokens=100))
    await until(lambda: first.steps == 2)
    small = [await world.router(name=f"small {number}", context=50) for number in range(8)]
    large = await world.router(name="large")
    await until(lambda: world.server.linked_routers == 10)
    world.endpoints.remove(first.endpoint)
    first.cut()
    assert len(ids_of(await task)) == 100
    assert [router.submits for router in small] == [[]] * 8
    assert len(large.submits) == 1


def full(times: int) -> Callable[[Submit], Iterator[StreamOutput]]:
    """Refuse so many requests, then take all."""
    left = [times]

    def script(submit: Submit) -> Iterator[StreamOutput]:
        left[0] -= 1
        return refuse("RESOURCE_EXHAUSTED", "full")(submit) if left[0] >= 0 else echo(submit)

    return script


async def lost_to_a_full_router(world: World, times: int, wait_s: float) -> list[int]:
    """The tokens of an answer whose router is lost after three, where the next one refuses it at first."""
    first = await world.router(stall_after_steps=3)
    client = await world.front(router_wait_seconds=wait_s)
    await client.wait_ready(WAIT_S)
    task = asyncio.create_task(collect(client, "hello", max_tokens=20))
    await until(lambda: first.steps == 3)
    world.endpoints.clear()
    await world.router(name="r1", script=full(times))
    await until(lambda: world.server.linked_routers == 2)
    first.cut()
    return ids_of(await task)


async def test_a_router_that_is_full_is_asked_again_for_an_answer_that_has_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover_stream, "FULL_SECONDS", 0.001)
    assert len(await lost_to_a_full_router(world, times=5, wait_s=WAIT_S)) == 20


async def test_a_router_that_stays_full_ends_the_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover_stream, "FULL_SECONDS", 0.001)
    with pytest.raises(grpc.aio.AioRpcError, match="full") as caught:
        await lost_to_a_full_router(world, times=10**9, wait_s=0.1)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_new_request_is_refused_at_once(world: World) -> None:
    router, client = await world.serve(script=full(1))
    with pytest.raises(grpc.aio.AioRpcError, match="full"):
        await collect(client, "hello", max_tokens=2)
    assert len(router.submits) == 1
