"""A router before its first request and before its end: it tests itself, and it hands over."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.tiny import Tiny, greedy
from tests.unit.front.calls import check_one_end, ids_of
from tests.unit.front.front_fakes import WAIT_S, until
from tests.unit.router.service import Brake, Service, ask

PROMPT = [3, 1, 4, 1, 5]


async def test_a_self_test_takes_every_shard_and_is_not_counted(service: Service) -> None:
    await service.start()
    (router,) = service.routers
    await asyncio.to_thread(router.run_self_test, WAIT_S)
    router.statistics.flush()
    assert (router.statistics.cumulative.step_seconds, router.statistics.cumulative.rows_S.sum()) == (0, 0)
    assert all(running.assignments > 0 for running in service.servers.running.values())
    await service.idle()
    check_one_end(await ask(service, PROMPT, 4))
    router.statistics.flush()
    assert router.statistics.cumulative.decode_tokens == 3


async def test_a_router_without_a_shard_fails_its_self_test(service: Service) -> None:
    await service.start()
    service.servers.stop(1)
    (router,) = service.routers
    router.engine.unavailable_wait_s = 10 * WAIT_S
    with pytest.raises((RuntimeError, TimeoutError), match="token"):
        await asyncio.wait_for(asyncio.to_thread(router.run_self_test, 3), WAIT_S)
    for request in router.engine.requests:
        router.engine.cancel(request.key)


async def test_a_self_test_ends_when_its_router_need_not_go_on(service: Service) -> None:
    """A process that is told to drain does not wait for a shard that may never come back."""
    await service.start()
    service.servers.stop(1)
    (router,) = service.routers
    router.engine.unavailable_wait_s = 10 * WAIT_S
    looks = iter(range(3))

    def go_on() -> None:
        if next(looks, None) is None:
            raise InterruptedError("told to drain")

    with pytest.raises(InterruptedError, match="told to drain"):
        await asyncio.wait_for(asyncio.to_thread(router.run_self_test, 10 * WAIT_S, go_on), WAIT_S)
    assert not router.self_test.running
    for request in router.engine.requests:
        router.engine.cancel(request.key)


async def test_a_router_that_leaves_waits_for_its_streams_and_gets_no_more(
    service: Service, tiny: Callable[..., Tiny]
) -> None:
    await service.start(routers=2)
    first, second = service.routers
    brakes = [Brake(first, steps=20), Brake(second, steps=20)]  # none may end before all have come
    streams = [asyncio.create_task(ask(service, PROMPT, 150)) for _ in range(4)]
    await until(lambda: first.engine.requests.streams == second.engine.requests.streams == 2)
    leaving = asyncio.create_task(asyncio.to_thread(first.leave, 10 * WAIT_S))
    await until(lambda: any(link.leaving for link in service.world.server.router_pool.links))
    more = [asyncio.create_task(ask(service, PROMPT, 20)) for _ in range(4)]
    await until(lambda: second.engine.requests.streams == 6)
    assert not leaving.done()
    for brake in brakes:
        brake.release()
    expected = greedy(tiny("qwen3_moe").oracle, PROMPT, 150)
    assert [ids_of(await stream) for stream in streams] == [expected] * 4
    assert [ids_of(await stream) for stream in more] == [expected[:20]] * 4
    await asyncio.wait_for(leaving, WAIT_S)


async def test_what_outlives_a_leaving_router_goes_on_elsewhere(service: Service, tiny: Callable[..., Tiny]) -> None:
    await service.start(routers=2)
    first, second = service.routers
    brakes = [Brake(first, steps=20), Brake(second, steps=20)]  # none may end before it is left alone
    streams = [asyncio.create_task(ask(service, PROMPT, 200)) for _ in range(4)]
    await until(lambda: first.engine.requests.streams == second.engine.requests.streams == 2)
    await until(lambda: not any(brake.steps for brake in brakes))
    brakes[1].release()
    await asyncio.to_thread(first.leave, 0.05)
    service.world.endpoints.remove(first.endpoint)
    service.routers.remove(first)
    await asyncio.to_thread(first.close)
    expected = greedy(tiny("qwen3_moe").oracle, PROMPT, 200)
    assert [ids_of(await stream) for stream in streams] == [expected] * 4
