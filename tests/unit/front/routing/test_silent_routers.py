"""Routers that say nothing, as one that is stopped: who notices, and where requests go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import grpc
import pytest

from router_service.client.client import Client
from router_service.front.config import FrontConfig
from router_service.front.routing.failover_stream import FailoverStream
from router_service.front.routing.router_pool import RouterPool
from router_service.front.routing.silence import Silence, silence_ticks, tick_seconds
from router_service.protocol.messages import MetricFamily, RouterReport, Sample, SamplingParams, Submit
from tests.unit.front.calls import check_one_end, collect, ids_of
from tests.unit.front.front_fakes import CREDENTIALS, WAIT_S, FakeRouter, report, until
from tests.unit.front.front_world import World


def ready_report(name: str = "r0") -> RouterReport:
    sample = Sample("expertmesh_router_ready", {"model": "tiny", "router": name}, 1.0)
    return report(name, metric_families=[MetricFamily("expertmesh_router_ready", "", "gauge", [sample])])


async def page(world: World, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{world.server.metrics_port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def ready_everywhere(world: World, client: Client) -> set[bool]:
    """What says that the only router is ready: health, /healthz, GetCluster and the series."""
    (state,) = (await client.cluster()).routers
    series = 'expertmesh_router_ready{model="tiny",router="r0"} 1.0' in (await page(world, "/metrics"))[1]
    return {await client.health(), (await page(world, "/healthz"))[0] == 200, state.ready, series}


async def test_all_that_says_ready_says_the_same(world: World) -> None:
    world.metrics_port = 0
    router, client = await world.serve()
    router.say(ready_report())
    await until(lambda: bool(world.server.router_pool.reports))
    assert await ready_everywhere(world, client) == {True}
    await world.quiet()  # it is idle: nobody asked it for anything
    assert await ready_everywhere(world, client) == {False}
    assert "no router answers" in (await page(world, "/healthz"))[1]
    router.say(ready_report())
    await client.wait_ready(WAIT_S)
    assert await ready_everywhere(world, client) == {True}
    router.say(report(ready=False))
    await until(lambda: world.server.health.status == "shards are missing")
    assert router.connections == 1


async def test_a_stream_of_a_silent_router_goes_on_at_another(world: World) -> None:
    first = await world.router(stall_after_steps=3)
    client = await world.front(max_resubmits=0)  # it is not lost
    await client.wait_ready(WAIT_S)
    task = asyncio.create_task(collect(client, "hello world", max_tokens=9))
    await until(lambda: first.steps == 3)
    second = await world.router(name="r1")
    await until(lambda: world.server.linked_routers == 2)
    await world.quiet(but=[second])
    responses = await task
    check_one_end(responses)
    assert len(ids_of(responses)) == 9
    assert second.submits[0].generated == ids_of(responses)[:3]
    await until(lambda: not first.running)  # it was cancelled there
    assert first.connections == 1


async def test_a_stream_waits_for_the_only_router(world: World) -> None:
    """It may be slow, or the network: another router, if one comes, takes over at once."""
    router, client = await world.serve(stall_after_steps=3)
    task = asyncio.create_task(collect(client, "hello world", max_tokens=9))
    await until(lambda: router.steps == 3)
    await world.quiet()
    assert not await client.health()
    router.stall_after_steps = None
    assert len(ids_of(await task)) == 9
    assert len(router.submits) == 1


async def test_a_stream_ends_when_the_only_router_stays_silent(world: World) -> None:
    router, client = await world.serve(stall_after_steps=3)
    task = asyncio.create_task(collect(client, "hello world", max_tokens=9))
    await until(lambda: router.steps == 3)
    await world.quiet(ticks=2 * round(WAIT_S / tick_seconds(WAIT_S)))
    with pytest.raises(grpc.aio.AioRpcError, match="router r0 is silent, and there is no other") as caught:
        await task
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    await until(lambda: world.server.streams == 0)
    await until(lambda: router.connections == 2)  # the link was broken, and is made again


async def test_new_requests_do_not_go_to_a_silent_router(world: World) -> None:
    router = await world.router()
    client = await world.front(router_wait_seconds=0.2)
    await client.wait_ready(WAIT_S)
    world.endpoints.clear()  # a process that is stopped makes no new link either
    await world.quiet()
    with pytest.raises(grpc.aio.AioRpcError, match="no router") as caught:
        await collect(client, "hello", max_tokens=2)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert router.submits == []
    second = await world.router(name="r1")
    assert len(ids_of(await collect(client, "hello", max_tokens=2))) == 2
    assert len(second.submits) == 1


async def test_a_router_that_hesitates_is_chosen_only_if_there_is_no_other(world: World) -> None:
    first, client = await world.serve()
    await world.quiet(ticks=silence_ticks(WAIT_S) // 2 + 1)
    assert len(ids_of(await collect(client, "hello", max_tokens=2))) == 2
    second = await world.router(name="r1")
    await until(lambda: world.server.linked_routers == 2)
    await world.quiet(but=[second], ticks=silence_ticks(WAIT_S) // 2 + 1)
    assert await client.health()
    for prompt in ("hello", "fox", "dog", "lazy"):
        await collect(client, prompt, max_tokens=2)
    assert (len(first.submits), len(second.submits)) == (1, 4)


async def test_silent_routers_are_not_what_a_request_has_ended(world: World) -> None:
    """Two that end without a token would be: see `FailoverStream`."""
    client = await world.front()
    silent = [await world.router(name=f"r{number}", stall_after_steps=0) for number in range(2)]
    await until(lambda: world.server.linked_routers == 2)
    task = asyncio.create_task(collect(client, "hello", max_tokens=5))
    await until(lambda: any(router.submits for router in silent))
    (other,) = [router for router in silent if not router.submits]
    await world.quiet(but=[other])
    await until(lambda: bool(other.submits))
    last = await world.router(name="last")
    await until(lambda: world.server.linked_routers == 3)
    await world.quiet(but=[last])
    assert len(ids_of(await task)) == 5


@asynccontextmanager
async def pool_of(routers: list[FakeRouter]) -> AsyncIterator[RouterPool]:
    async def endpoints() -> list:  # type: ignore[type-arg]
        return [router.endpoint for router in routers]

    async def ignore() -> None: ...

    config = FrontConfig(poll_seconds=0.02, link_silence_seconds=WAIT_S)
    pool = RouterPool(endpoints=endpoints, node="node", credentials=CREDENTIALS, config=config, on_change=ignore)
    pool.start()
    yield pool
    await pool.stop()
    for router in routers:
        await router.stop()


async def test_a_request_that_is_not_read_goes_to_another_router() -> None:
    """It is larger than what the sockets take, so that it is never sent to one that is stopped."""
    routers = [await FakeRouter().start()]
    async with pool_of(routers) as pool:
        await until(lambda: len(pool.links) == 1)
        routers[0].stop_reading()
        submit = Submit(0, "id", [70_000] * 3_000_000, SamplingParams(max_tokens=1))
        stream = FailoverStream(pool, submit, deadline=None, router_wait_seconds=WAIT_S, max_resubmits=1)
        task = asyncio.create_task(stream.receive())
        await until(lambda: pool.links[0].outstanding == 1)
        for _ in range(silence_ticks(WAIT_S) + 1):
            await pool.tick()
        assert not task.done()
        routers.append(await FakeRouter(name="r1").start())
        await until(lambda: len(pool.links) == 2)
        await pool.tick()
        await pool.tick()  # before the first was heard of
        (arrival,) = await task
        assert arrival.output.token_ids == [70_000]
        stream.close()


def test_silence_is_noticed_in_time_and_not_early() -> None:
    assert silence_ticks(3.0) * tick_seconds(3.0) == pytest.approx(2.75)  # and up to a tick before the first
    silence = Silence(limit_s=3.0, patience_s=1.0)
    seen = []
    for _ in range(20):
        silence.tick(40)
        seen.append((silence.hesitant, silence.silent, silence.over))
    assert seen[:12] == [(False, False, False)] * 6 + [(True, False, False)] * 5 + [(True, True, False)]
    assert seen[15] == (True, True, True)
    silence.tick(41)
    assert (silence.hesitant, silence.silent, silence.over) == (False, False, False)
    assert FrontConfig().link_silence_seconds == 3.0
