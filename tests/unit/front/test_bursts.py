"""Bursts of calls beyond the Front's limits: each ends as the Front says, none by gRPC itself."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import grpc.aio
import pytest

from router_service.front import grpc_server
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from tests.unit.front.front_fakes import WAIT_S, until
from tests.unit.front.front_world import World

PLACES = 64
CALLS = 1500


async def code_of(stub: InferenceStub) -> grpc.StatusCode:
    call = stub.Generate(pb.GenerateRequest(prompt="hello", sampling=pb.Sampling(max_tokens=2)))
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@asynccontextmanager
async def connections(world: World, count: int) -> AsyncIterator[list[InferenceStub]]:
    """So many connections to the world's Front."""
    target, own = f"127.0.0.1:{world.server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(target, own)) for _ in range(count)]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        yield [InferenceStub(channel) for channel in channels]


@pytest.mark.parametrize("count", [1, 8])
async def test_a_burst_is_refused_by_the_front_and_not_cancelled_by_grpc(world: World, count: int) -> None:
    """gRPC's own queue cancels calls at random once a thousand wait for the Front."""
    router = await world.router(stall_after_steps=0)
    await (await world.front(max_concurrent_streams=PLACES)).wait_ready(WAIT_S)
    async with connections(world, count) as stubs:
        calls = [asyncio.create_task(code_of(stubs[number % count])) for number in range(CALLS)]
        await until(lambda: sum(call.done() for call in calls) == CALLS - PLACES)
        router.stall_after_steps = None
        codes = Counter(await asyncio.gather(*calls))
    assert codes == {grpc.StatusCode.OK: PLACES, grpc.StatusCode.RESOURCE_EXHAUSTED: CALLS - PLACES}


async def test_a_connection_has_a_bounded_number_of_streams(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond it wait in the client; of a second connection they are refused."""
    monkeypatch.setattr(grpc_server, "SPARE_STREAMS", 0)
    router = await world.router(stall_after_steps=0)
    await (await world.front(max_concurrent_streams=4)).wait_ready(WAIT_S)
    async with connections(world, 2) as (first, second):
        calls = [asyncio.create_task(code_of(first)) for _ in range(12)]
        await until(lambda: world.server.streams == 4)
        assert await code_of(second) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not any(call.done() for call in calls)
        router.stall_after_steps = None
        assert Counter(await asyncio.gather(*calls)) == {grpc.StatusCode.OK: 12}
