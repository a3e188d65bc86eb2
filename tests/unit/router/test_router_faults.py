"""Something of a router breaks: every request ends once, the blocks are free, and what must be seen is seen."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

import router_service.router.publisher
import router_service.router.router_requests
import router_service.router.step_log
from router_service.engine.request import Event
from router_service.protocol.messages import StreamOutput
from router_service.router import front_connections
from router_service.router.sending import front_writer
from router_service.router.sending.send_order import SendOrder
from tests.unit.front.calls import Responses, check_one_end, ids_of
from tests.unit.front.front_fakes import until
from tests.unit.router.service import Brake, Service, ask

PROMPTS = [[3, 1, 4], [1, 5, 9, 2], [6, 5], [3, 5, 8]]


def breaking(work: Callable[..., Any], times: int) -> Callable[..., Any]:
    """`work`, the first `times` calls of which raise."""
    left = iter(range(times))

    def broken(*args: Any, **values: Any) -> Any:
        if next(left, None) is not None:
            raise LookupError("out of luck")
        return work(*args, **values)

    return broken


async def all_end(service: Service) -> list[Responses | BaseException]:
    """Each of four requests has an end, and one only."""
    ends = await asyncio.gather(*(ask(service, prompt, 8) for prompt in PROMPTS), return_exceptions=True)
    for end in ends:
        if isinstance(end, BaseException):
            assert isinstance(end, grpc.aio.AioRpcError), end
        else:
            check_one_end(end)
    await service.idle()
    return ends


@pytest.mark.parametrize("name", ["statistics", "summaries", "step_log", "request_log", "accepted_log"])
async def test_a_broken_observer_costs_no_request(
    service: Service,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await service.start()
    (router,) = service.routers
    calm = [ids_of(await ask(service, prompt, 8)) for prompt in PROMPTS]
    owner: Any
    owner, attribute = {
        "statistics": (router.statistics, "_add_steps"),
        "summaries": (router.summaries, "attach"),
        "step_log": (router_service.router.step_log.log, "isEnabledFor"),
        "request_log": (router_service.router.publisher, "log_ended"),
        "accepted_log": (router_service.router.router_requests, "log_accepted"),
    }[name]
    monkeypatch.setattr(owner, attribute, breaking(getattr(owner, attribute), 1000))
    ends = await all_end(service)
    assert [ids_of(end) for end in ends if not isinstance(end, BaseException)] == calm
    router.check_health(30)
    if name != "statistics":  # which adds up many steps at once, here or on the reporter's thread
        assert router.engine.guard.faults[name.replace("accepted", "request")] > 0


@pytest.mark.parametrize("times", [1, 3])
async def test_events_that_cannot_be_published_cost_no_request(
    service: Service,
    times: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The Front is hung up on, and asks again."""
    await service.start()
    (router,) = service.routers
    monkeypatch.setattr(router.fronts, "publish", breaking(router.fronts.publish, times))
    await all_end(service)
    assert len(ids_of(await ask(service, [5], 4))) == 4
    router.check_health(30)


@pytest.mark.parametrize("stage", ["submit", "requests"])
async def test_a_request_that_cannot_be_taken_in_is_told(
    service: Service,
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await service.start()
    (router,) = service.routers
    owner: Any = router.engine.scheduler if stage == "submit" else router_service.router.router_requests
    name = "submit" if stage == "submit" else "Request"
    monkeypatch.setattr(owner, name, breaking(getattr(owner, name), 1))
    ends = await all_end(service)
    (failed,) = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    assert failed.code() is grpc.StatusCode.INTERNAL
    assert "could not accept the request" in str(failed.details())


async def test_a_writer_that_breaks_is_seen_and_its_front_comes_back(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await service.start()
    (router,) = service.routers
    monkeypatch.setattr(SendOrder, "add", breaking(SendOrder.add, 1))
    await all_end(service)
    assert router.threads.failures["front writer"] == 1
    assert "writer has failed" in caplog.text
    assert "out of luck" in caplog.text
    router.check_health(30)
    assert len(ids_of(await ask(service, [5], 4))) == 4


async def test_an_output_that_cannot_be_packed_costs_its_own_request(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await service.start()
    calm = [ids_of(await ask(service, prompt, 8)) for prompt in PROMPTS]
    pack = front_writer.output_of

    def packed(event: Event) -> StreamOutput:
        if event.routing:
            raise LookupError("out of luck")
        return pack(event)

    monkeypatch.setattr(front_writer, "output_of", packed)
    bad = asyncio.create_task(ask(service, [7] * 60, 100, return_routing=True))
    others = await asyncio.gather(*(ask(service, prompt, 8) for prompt in PROMPTS))
    with pytest.raises(grpc.aio.AioRpcError, match="cannot pack an output") as caught:
        await bad
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert [ids_of(other) for other in others] == calm
    assert service.world.server.linked_routers == 1
    assert service.routers[0].threads.failures["front writer"] == 0
    await service.idle()


async def test_a_router_that_fails_whatever_it_is_given_is_not_ready(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its Front hears of it at once, and asks no other router again for what failed."""
    await service.start()
    (router,) = service.routers
    with monkeypatch.context() as patch:
        patch.setattr(type(router.engine.backbone), "attention", breaking(list, 1000))
        for prompt in PROMPTS[:3]:
            with pytest.raises(grpc.aio.AioRpcError, match="cannot compute this request") as caught:
                await ask(service, prompt, 8)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
        await until(lambda: not router.ready())
        with pytest.raises(RuntimeError, match="fails whatever it is given"):
            router.check_health(30)
        await until(lambda: [link.ready for link in service.world.server.router_pool.links] == [False])
    assert len(ids_of(await ask(service, PROMPTS[0], 8))) == 8
    await until(router.ready)
    router.check_health(30)
    await service.idle()


async def test_an_output_over_the_limit_of_a_message_costs_its_own_request(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Among others of the same Front: they go on over the same connection, and the router computes no more of it."""
    monkeypatch.setattr(front_connections, "MAX_MESSAGE_BYTES", 1000)
    await service.start()
    (router,) = service.routers
    calm = [ids_of(await ask(service, prompt, 8)) for prompt in PROMPTS]
    brake = Brake(router)  # so that all are in one step
    others = [asyncio.create_task(ask(service, prompt, 8)) for prompt in PROMPTS]
    large = asyncio.create_task(ask(service, [7] * 60, 150, return_routing=True))
    await until(lambda: router.engine.requests.streams == len(PROMPTS) + 1)
    brake.release()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await large
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "a message to a Front at most 1000" in str(caught.value.details())
    assert [ids_of(await other) for other in others] == calm
    assert service.world.server.linked_routers == 1
    await service.idle()


@pytest.mark.parametrize("kind", ["engine", "reporter", "shard connector", "activity"])
async def test_a_thread_that_must_last_is_missed(
    service: Service,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await service.start()
    (router,) = service.routers
    owner: Any
    owner, name = {
        "engine": (router.engine.scheduler, "has_work"),
        "reporter": (router.reporter._due, "wait"),
        "shard connector": (router.connector._stop, "wait"),  # `connected` is asked by other threads too
        "activity": (router.activity._watched, "wait"),
    }[kind]
    monkeypatch.setattr(owner, name, breaking(getattr(owner, name), 1))
    router.activity.watch(1, 0.0)
    await until(lambda: router.threads.failures[kind] == 1)
    with pytest.raises(RuntimeError, match=f"threads have died: {kind}"):
        router.check_health(30)
    service.routers.remove(router)
    await asyncio.to_thread(router.close)
