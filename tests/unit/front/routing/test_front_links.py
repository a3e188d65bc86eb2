"""Routers that die, lie, stall and come back; the streams that they had."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest

from experts.transport.frame import Kind
from router_service.front.config import FrontConfig
from router_service.front.errors import RequestError
from router_service.front.routing.failover_stream import FailoverStream
from router_service.front.routing.router_pool import RouterPool
from router_service.front.routing.stream_queue import Arrival, OverflowedError, StreamQueue
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import RouterHello, SamplingParams, StepOutputs, StreamOutput, Submit
from tests.support.routed import Layer, part_of
from tests.unit.front.calls import check_one_end, collect, ids_of, text_of
from tests.unit.front.front_fakes import CREDENTIALS, WAIT_S, FakeRouter, echo, report, until
from tests.unit.front.front_world import World


async def test_a_stream_goes_on_at_another_router(world: World) -> None:
    first, client = await world.serve(step_s=0.002, die_after_steps=5)
    task = asyncio.create_task(collect(client, "hello world fox", max_tokens=40, seed=11, temperature=0.5))
    await until(lambda: bool(first.submits))
    second = await world.router(name="r1")
    responses = await task
    check_one_end(responses)
    submit, resubmit = first.submits[0], second.submits[0]
    assert ids_of(responses) == [submit.prompt[position % len(submit.prompt)] for position in range(40)]
    assert text_of(responses) == await client.detokenize(ids_of(responses))
    assert resubmit.generated == ids_of(responses)[:5]
    assert (resubmit.prompt, resubmit.sampling) == (submit.prompt, submit.sampling)


async def test_a_stream_goes_on_when_the_same_router_is_back(world: World) -> None:
    router, client = await world.serve(stall_after_steps=1)  # or it might be done before it is cut
    stream = client.generate("hello world fox", max_tokens=60)
    responses = [await anext(stream)]
    router.cut()
    router.stall_after_steps = None
    responses += [response async for response in stream]
    check_one_end(responses)
    assert len(ids_of(responses)) == 60
    assert router.connections == 2
    assert router.submits[1].generated == ids_of(responses)[: len(router.submits[1].generated)]


async def test_a_stop_string_is_found_across_two_routers(world: World) -> None:
    first, client = await world.serve(step_s=0.002, die_after_steps=5)
    prompt = "hello worldENDING and more"
    task = asyncio.create_task(collect(client, prompt, max_tokens=200, stop=["worldENDING"]))
    await until(lambda: bool(first.submits))
    await world.router(name="r1")
    assert text_of(await task) == "hello "


async def test_no_router_comes_back_within_the_deadline(world: World) -> None:
    _, client = await world.serve(step_s=0.002, die_after_steps=2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello", max_tokens=50, timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_request_that_kills_routers_is_given_up(world: World) -> None:
    router = await world.router(step_s=0.001)
    client = await world.front(max_resubmits=2)
    await client.wait_ready(10)
    router.script = lambda submit: (router.cut(), echo(submit))[1]  # type: ignore[func-returns-value]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, "hello", max_tokens=50)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(router.submits) == 3


async def test_a_request_that_ends_two_routers_is_not_sent_to_a_third(world: World) -> None:
    first, second, third = [await world.router(name=f"r{n}") for n in range(3)]
    client = await world.front(max_resubmits=100)
    await until(lambda: world.server.linked_routers == 3)

    def deadly(router: FakeRouter) -> None:
        def script(submit: Submit) -> Iterator[StreamOutput]:
            world.endpoints.remove(router.endpoint)
            router.cut()
            return echo(submit)

        router.script = script

    for router in (first, second, third):
        deadly(router)
    with pytest.raises(grpc.aio.AioRpcError, match="was in flight when 2 routers ended") as caught:
        await collect(client, "hello", max_tokens=50)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert sum(len(router.submits) for router in (first, second, third)) == 2
    assert len(world.endpoints) == 1


async def test_routing_of_a_prompts_first_chunk_is_no_answer(world: World) -> None:
    """The next chunk may be what ends the routers."""
    first, second, third = [await world.router(name=f"r{n}") for n in range(3)]
    client = await world.front(max_resubmits=100)
    await until(lambda: world.server.linked_routers == 3)

    def chunk_and_end(router: FakeRouter) -> None:
        def script(submit: Submit) -> Iterator[StreamOutput]:
            world.endpoints.remove(router.endpoint)
            yield StreamOutput(submit.stream, [], routing=part_of(0, [[Layer(1, [3], [1.0], [0])]]))
            router.cut()

        router.script = script

    for router in (first, second, third):
        chunk_and_end(router)
    with pytest.raises(grpc.aio.AioRpcError, match="was in flight when 2 routers ended"):
        await collect(client, "hello", max_tokens=50, return_routing=True)
    assert sum(len(router.submits) for router in (first, second, third)) == 2


async def test_a_stream_that_its_routers_could_compute_outlives_many(world: World) -> None:
    """It had a token of each, so it is none that ends routers."""
    client = await world.front(max_resubmits=5)
    task: asyncio.Task[list[pb.GenerateResponse]] | None = None
    for number in range(5):
        router = await world.router(name=f"r{number}", stall_after_steps=2)
        if task is None:
            await client.wait_ready(WAIT_S)
            task = asyncio.create_task(collect(client, "hello", max_tokens=20))
        await until(lambda router=router: router.steps == 2)
        world.endpoints.clear()
        router.cut()
    await world.router(name="last")
    assert task is not None
    responses = await task
    check_one_end(responses)
    assert len(ids_of(responses)) == 20


async def test_routers_that_leave_in_order_do_not_count(world: World) -> None:
    """The stream has waited in the queue of each, and may not outlive a router that ends by a fault."""
    client = await world.front(max_resubmits=0)
    task: asyncio.Task[list[pb.GenerateResponse]] | None = None
    for number in range(4):
        router = await world.router(name=f"r{number}", stall_after_steps=0)
        if task is None:
            await client.wait_ready(WAIT_S)
            task = asyncio.create_task(collect(client, "hello", max_tokens=20))
        await until(lambda router=router: len(router.submits) == 1)
        router.say(report(router.name, leaving=True))
        await until(lambda: all(link.leaving for link in world.server.router_pool.links))
        world.endpoints.clear()
        router.cut()
    await world.router(name="last")
    assert task is not None
    assert len(ids_of(await task)) == 20


@pytest.mark.parametrize(
    ("payload", "kind"), [(b"\xff\xff", Kind.MESSAGE), (b"", Kind.PARTIALS), (b"\x81\xa4type\xa5hello", Kind.MESSAGE)]
)
async def test_garbage_from_a_router_ends_its_link_alone(world: World, payload: bytes, kind: Kind) -> None:
    router, client = await world.serve(stall_after_steps=1)  # or it might be done before the garbage
    stream = client.generate("hello world", max_tokens=50)
    responses = [await anext(stream)]
    router.shout(payload, kind)
    router.stall_after_steps = None
    responses += [response async for response in stream]
    check_one_end(responses)
    assert len(ids_of(responses)) == 50
    assert router.connections == 2


async def test_bytes_that_are_no_frame_end_the_link(world: World) -> None:
    router, client = await world.serve()
    router.babble(b"GET / HTTP/1.1\r\n" + b"x" * 40)
    await until(lambda: router.connections == 2)
    await client.wait_ready(WAIT_S)


@pytest.mark.parametrize("fault", ["secret", "digest", "incarnation"])
async def test_a_stranger_is_not_linked(world: World, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    stranger = await world.router()
    if fault == "secret":
        stranger.credentials = replace(CREDENTIALS, secret=b"another")
    elif fault == "digest":
        stranger.credentials = replace(CREDENTIALS, digest=b"d" * 32)
    else:
        stranger.incarnation += 1
    client = await world.front()
    with caplog.at_level(logging.WARNING):
        await until(lambda: "cannot link router r0" in caplog.text)
        before = stranger.greetings
        await until(lambda: stranger.greetings >= before + 3)  # it was tried again, and failed each time but the last
    assert caplog.text.count("cannot link router r0") == 1
    assert (f"is of deployment {'64' * 6}, this process of 000102030405" in caplog.text) == (fault == "digest")
    assert not await client.health()


async def test_the_smallest_router_bounds_requests(world: World) -> None:
    await world.router(context=100)
    await world.router(name="r1", context=50)
    client = await world.front()
    await until(lambda: world.server.linked_routers == 2)
    model = await client.model()
    assert (model.context, model.prompt_limit) == (50, 49)


def output(tokens: int, finish: str | None = None) -> Arrival:
    return Arrival(0.0, StreamOutput(1, [5] * tokens, finish=finish))


async def test_a_stream_queue_keeps_no_more_than_its_limit() -> None:
    queue = StreamQueue(1, max_buffered_tokens=10)
    queue.put(output(6))
    assert len(await queue.take()) == 1
    queue.put(output(6))
    queue.put(output(6))
    assert queue.overflowed
    with pytest.raises(OverflowedError):
        await queue.take()


async def test_a_slow_reader_loses_its_stream_and_the_router_hears_of_it() -> None:
    router = await FakeRouter(stall_after_steps=1).start()  # nothing more until the reader has read and turned away

    async def endpoints() -> list:  # type: ignore[type-arg]
        return [router.endpoint]

    async def ignore() -> None: ...

    pool = RouterPool(
        endpoints=endpoints,
        node="node",
        credentials=CREDENTIALS,
        config=FrontConfig(poll_seconds=0.02, max_buffered_tokens=20),
        on_change=ignore,
    )
    pool.start()
    submit = Submit(0, "id", [5], SamplingParams(max_tokens=500))
    stream = FailoverStream(pool, submit, deadline=None, router_wait_seconds=WAIT_S, max_resubmits=3)
    await stream.receive()
    router.stall_after_steps = None
    await until(lambda: len(router.cancels) == 1)
    with pytest.raises(RequestError, match="too slowly") as caught:
        await stream.receive()
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    stream.close()
    await pool.stop()
    await router.stop()


async def test_a_second_hello_and_late_outputs_are_survived(world: World) -> None:
    router, client = await world.serve()
    router.say(report())
    router.say(StepOutputs([StreamOutput(99, [5])]))  # of a stream that nobody waits for any more
    assert len(ids_of(await collect(client, "hello", max_tokens=4))) == 4
    assert router.connections == 1
    router.say(RouterHello("r0", 10, 10))
    await until(lambda: router.connections == 2)
    await client.wait_ready(WAIT_S)
