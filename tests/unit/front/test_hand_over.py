"""A Front that takes over from another on the same port: nobody is refused, and one of both has the metrics page."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from router_service.client.client import Client
from router_service.front.arrivals import TURNS, Arrivals
from router_service.front.port_check import check_free
from router_service.front.server import FrontServer
from tests.unit.front.calls import collect, ids_of
from tests.unit.front.front_fakes import WAIT_S, until
from tests.unit.front.front_world import World

STREAMS = 4
CONNECTIONS = 8


async def two_fronts(world: World) -> tuple[FrontServer, FrontServer, Client]:
    """An old one and a new one on its port, and a client that is connected to the old one."""
    await world.router(step_s=0.01)
    client = await world.front(reuse_port=True)
    old = world.server
    await client.wait_ready(WAIT_S)
    newer = await world.front(takes_over=True, grpc_port=old.grpc_port, reuse_port=True)
    await newer.wait_ready(WAIT_S)
    return old, world.server, client


async def test_streams_end_where_they_are_and_new_ones_are_served_by_the_other(world: World) -> None:
    old, new, client = await two_fronts(world)
    running = [asyncio.create_task(collect(client, "hello world", max_tokens=100)) for _ in range(STREAMS)]
    await until(lambda: old.streams == STREAMS)
    handing = asyncio.create_task(old.hand_over(WAIT_S))
    await until(lambda: old.admission.draining)
    # Connections that are made now all lead to the other.
    for _ in range(CONNECTIONS):
        async with Client(f"127.0.0.1:{new.grpc_port}") as another:
            assert len(ids_of(await collect(another, "hello", max_tokens=3))) == 3
    assert [len(ids_of(await answer)) for answer in running] == [100] * STREAMS
    await handing
    assert len(ids_of(await collect(client, "hello", max_tokens=3))) == 3
    assert not new.admission.draining


async def test_calls_that_never_pause_are_refused_by_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC would cancel those that it holds when its server stops."""
    old, _, client = await two_fronts(world)
    monkeypatch.setattr(Arrivals, "pause", answers(False))
    paused, goes_on = asyncio.Event(), asyncio.Event()
    world.sleep = waits(paused, goes_on)
    running = asyncio.create_task(old.hand_over(WAIT_S))
    await paused.wait()
    assert old.admission.draining
    goes_on.set()
    await running
    assert await client.health()


def answers(value: bool) -> Callable[..., Awaitable[bool]]:
    async def answer(*_: object) -> bool:
        return value

    return answer


def waits(paused: asyncio.Event, goes_on: asyncio.Event) -> Callable[[float], Awaitable[None]]:
    async def sleep(_: float) -> None:
        paused.set()
        await goes_on.wait()

    return sleep


async def test_the_metrics_page_is_opened_when_the_other_has_closed_its_own(world: World) -> None:
    world.metrics_port = 0
    await world.front(reuse_port=True)
    old = world.server
    world.metrics_port = old.metrics_port
    with pytest.raises(OSError, match="cannot listen"):
        await world.front(grpc_port=old.grpc_port, reuse_port=True)
    await world.front(takes_over=True, grpc_port=old.grpc_port, reuse_port=True)
    new = world.server
    assert (old.metrics_port, new.metrics_port) == (world.metrics_port, 0)
    await old.hand_over(WAIT_S)
    await until(lambda: new.metrics_port == world.metrics_port)


async def test_one_that_waits_for_its_metrics_page_can_end(world: World) -> None:
    world.metrics_port = 0
    await world.front(reuse_port=True)
    old = world.server
    world.metrics_port = old.metrics_port
    await world.front(takes_over=True, grpc_port=old.grpc_port, reuse_port=True)
    await world.server.stop()
    assert world.server.metrics_port == 0


async def test_a_pause_is_some_turns_without_a_call() -> None:
    arrivals, turns = Arrivals(), 0

    async def turn(_: float) -> None:
        nonlocal turns
        turns += 1
        arrivals.count += turns in (3, TURNS + 1)

    assert await arrivals.pause(60.0, turn)
    assert turns == 3 * TURNS


async def test_calls_without_a_pause_are_not_waited_for_without_an_end() -> None:
    arrivals = Arrivals()

    async def turn(_: float) -> None:
        arrivals.count += 1

    assert not await arrivals.pause(1.0, turn)


def test_a_port_where_somebody_listens_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: "):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)
    check_free("[127.0.0.1]", port)
    check_free("127.0.0.1", 0)
