"""Answers that are long when their router is lost, and routers that could not take them."""

import asyncio

from tests.unit.front.calls import check_one_end, collect, ids_of
from tests.unit.front.front_fakes import WAIT_S, until
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
