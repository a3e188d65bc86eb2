"""The search for routers goes on, whatever fails beside it; where it cannot, that is seen."""

import asyncio

import pytest

from experts.host.watched_task import TaskWatch
from experts.transport.address import Endpoint
from router_service.front.config import FrontConfig
from router_service.front.routing import router_pool
from router_service.front.routing.prefix_chain import PrefixChain
from router_service.front.routing.router_link import RouterLink
from router_service.front.routing.router_pool import RouterPool
from router_service.front.routing.stream_queue import LinkLostError, StreamQueue
from router_service.protocol.messages import SamplingParams, Submit
from tests.unit.front.calls import collect, ids_of
from tests.unit.front.front_fakes import CREDENTIALS, WAIT_S, FakeRouter, until
from tests.unit.front.front_world import World


async def test_a_failing_directory_does_not_disturb_links(world: World) -> None:
    _, client = await world.serve()
    world.no_directory = RuntimeError("no control plane")
    await world.asked_again()
    assert len(ids_of(await collect(client, "hello", max_tokens=4))) == 4


@pytest.mark.parametrize("fault", ["raises", "never answers"])
async def test_a_router_that_is_lost_while_the_directory_is_away(
    world: World, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Front says that it cannot serve, and finds the router when the directory is back."""
    monkeypatch.setattr(router_pool, "LIST_SECONDS", 0.05)
    router, client = await world.serve()
    if fault == "raises":
        world.no_directory = RuntimeError("no control plane")
    world.silent = fault == "never answers"
    await world.asked_again()
    assert await client.health()
    router.cut()
    await until(lambda: world.server.linked_routers == 0)
    assert world.server.health.status == "no router is linked"
    assert not await client.health()
    world.no_directory, world.silent = None, False
    await client.wait_ready(WAIT_S)
    assert router.connections == 2
    assert len(ids_of(await collect(client, "hello", max_tokens=4))) == 4
    world.server.check_health()


class Listener:
    """Follows a pool's links; raises while it is `broken`."""

    def __init__(self) -> None:
        self.broken = True
        self.heard = 0

    async def changed(self) -> None:
        self.heard += 1
        if self.broken:
            raise LookupError("out of luck")


async def test_a_fault_of_what_follows_the_links_ends_neither_search_nor_links(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = await FakeRouter().start(), await FakeRouter("r1").start()
    listed, listener, tasks = [first.endpoint], Listener(), TaskWatch()

    async def endpoints() -> list[Endpoint]:
        return list(listed)

    config = FrontConfig(poll_seconds=0.02)
    pool = RouterPool(
        endpoints=endpoints,
        node="node",
        credentials=CREDENTIALS,
        config=config,
        on_change=listener.changed,
        tasks=tasks,
    )
    pool.start()
    await asyncio.wait_for(pool.choose(PrefixChain()), WAIT_S)
    assert "out of luck" in caplog.text
    listed.append(second.endpoint)
    await until(lambda: len(pool.links) == 2)
    queue = await pool.links[0].submit(Submit(0, "id", [5], SamplingParams(max_tokens=500)))
    first.cut()
    with pytest.raises(LinkLostError):
        await asyncio.wait_for(read_on(queue), WAIT_S)
    tasks.check()
    assert not any(tasks.failures.values())
    await pool.stop()
    await first.stop()
    await second.stop()


async def read_on(queue: StreamQueue) -> None:
    while True:
        await queue.take()


async def test_the_end_of_the_search_fails_the_fronts_health(world: World) -> None:
    await world.serve()
    world.server.check_health()
    world.no_directory = asyncio.CancelledError()  # no `except Exception` stops it
    await until(lambda: world.server.tasks.failures["router poller"] == 1)
    with pytest.raises(RuntimeError, match="tasks have died: router poller"):
        world.server.check_health()


async def test_a_fault_in_a_link_is_counted_and_another_link_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, faults = RouterLink.run, iter([LookupError("out of luck")])

    async def broken(link: RouterLink) -> None:
        if (fault := next(faults, None)) is not None:
            raise fault
        await run(link)

    monkeypatch.setattr(RouterLink, "run", broken)
    router = await world.router()
    client = await world.front()
    await until(lambda: router.connections == 2)
    await client.wait_ready(WAIT_S)
    assert world.server.tasks.failures["router link"] == 1
    assert "task router link r0 has failed" in caplog.text
    assert "out of luck" in caplog.text
    world.server.check_health()
