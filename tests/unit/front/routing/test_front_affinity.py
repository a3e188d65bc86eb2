"""Prompts go where their beginning is cached, over real connections to made-up routers."""

import asyncio

from router_service.client.client import Client
from tests.unit.front.calls import collect, ids_of
from tests.unit.front.front_fakes import FakeRouter, report, until
from tests.unit.front.front_world import World

PLENTY = 1 << 20


async def linked(world: World, count: int = 2, **options: object) -> tuple[list[FakeRouter], Client]:
    routers = [await world.router(name=f"r{n}", prefix_cache_tokens=PLENTY, **options) for n in range(count)]
    client = await world.front()
    await until(lambda: world.server.linked_routers == count)
    return routers, client


def prompt(first: int, tokens: int = 200) -> list[int]:
    return [first] * tokens


def taken(routers: list[FakeRouter]) -> list[int]:
    return [len(router.submits) for router in routers]


async def test_a_conversation_goes_on_where_it_began(world: World) -> None:
    """Each turn begins with the last one and its answer, which together are more than the prompt that was sent."""
    routers, client = await linked(world)
    for first in range(3, 9):
        before, tokens = taken(routers), prompt(first)
        for turn in range(3):
            answer = await collect(client, tokens=tokens, max_tokens=100)
            tokens = [*tokens, *ids_of(answer), first, turn]
        turns = [after - old for after, old in zip(taken(routers), before, strict=True)]
        assert sorted(turns) == [0, 3]


async def test_finished_answers_are_remembered(world: World) -> None:
    routers, client = await linked(world)
    answer = ids_of(await collect(client, tokens=prompt(5, 65), max_tokens=128))
    link = next(link for link in world.server.router_pool.links if link.endpoint == used(routers).endpoint)
    # Busier than the other by less than prompt and answer save, but by more than the prompt alone does.
    link.backlog.begin(-1, 60)
    await collect(client, tokens=[*prompt(5, 65), *answer], max_tokens=1)
    assert sorted(taken(routers)) == [0, 2]


def used(routers: list[FakeRouter]) -> FakeRouter:
    (one,) = [router for router in routers if router.submits]
    return one


async def test_a_busy_router_is_left_for_another(world: World) -> None:
    routers, client = await linked(world)
    await collect(client, tokens=prompt(5), max_tokens=1)
    cached = used(routers)
    cached.stall_after_steps = cached.steps
    long = asyncio.create_task(collect(client, tokens=prompt(5, 1000), max_tokens=1))
    await until(lambda: len(cached.submits) == 2)
    await collect(client, tokens=prompt(5), max_tokens=1)
    assert sorted(taken(routers)) == [1, 2]
    cached.stall_after_steps = None
    await long


async def test_a_router_that_leaves_is_not_chosen_for_what_it_has(world: World) -> None:
    routers, client = await linked(world)
    await collect(client, tokens=prompt(5), max_tokens=1)
    cached = used(routers)
    cached.say(report(cached.name, leaving=True))
    await until(lambda: any(link.leaving for link in world.server.router_pool.links))
    await collect(client, tokens=prompt(5), max_tokens=1)
    assert taken(routers) == [1, 1]


async def test_two_fronts_agree_without_a_word(world: World) -> None:
    routers, client = await linked(world, count=3)
    other = await world.front()
    await until(lambda: world.server.linked_routers == 3)
    for first in range(3, 11):
        before = taken(routers)
        for each in (client, other):
            await collect(each, tokens=prompt(first), max_tokens=1)
        assert sorted(after - old for after, old in zip(taken(routers), before, strict=True)) == [0, 0, 2]


async def test_a_resubmitted_stream_goes_where_its_beginning_is(world: World) -> None:
    routers, client = await linked(world, count=3)
    await collect(client, tokens=prompt(5), max_tokens=1)
    first = used(routers)
    first.stall_after_steps = first.steps + 1
    stream = client.generate(tokens=prompt(5), max_tokens=3)
    await anext(stream)
    second, third = [router for router in routers if router is not first]
    for link in world.server.router_pool.links:  # both are busy now, the second less than the third
        if link.endpoint != first.endpoint:
            link.backlog.begin(-1, 1 if link.endpoint == second.endpoint else 2)
    first.stall_after_steps = None
    world.endpoints.remove(first.endpoint)
    await first.stop()
    async for _ in stream:
        pass
    assert (len(second.submits), len(third.submits)) == (1, 0)
    assert second.submits[0].generated
