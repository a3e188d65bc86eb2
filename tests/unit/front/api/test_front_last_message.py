"""The final message of an answer, when the drain's patience ends while it is being written."""

import asyncio

import pytest

from router_service.front.errors import RequestError
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import StreamFailure, StreamOutput
from tests.unit.front.front_fakes import WAIT_S
from tests.unit.front.front_world import World


class SlowReader:
    """Takes the last response, and those that come while it is `slow`, only once it is `let`."""

    def __init__(self, slow: bool = False) -> None:
        self.slow = slow
        self.waits = asyncio.Event()
        self.let = asyncio.Event()
        self.taken: list[pb.GenerateResponse] = []

    def time_remaining(self) -> float | None:
        return None

    def done(self) -> bool:
        return False

    async def accepted(self, request_id: str, /) -> None: ...

    async def write(self, response: pb.GenerateResponse, /) -> None:
        if self.slow or response.finish_reason:
            self.waits.set()
            await self.let.wait()
        self.taken.append(response)


def request() -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="hello", sampling=pb.Sampling(max_tokens=3))


def count(world: World, name: str, **labels: str) -> float:
    registry = world.server.metrics.registry
    return registry.get_sample_value(f"expertmesh_{name}_total", {"model": "tiny"} | labels) or 0.0


async def outlive_the_grace(world: World, reader: SlowReader) -> None:
    """Answer `reader`, whose write waits when the drain has no more patience."""
    answer = asyncio.create_task(world.server.inference.answer(request(), reader))
    await asyncio.wait_for(reader.waits.wait(), WAIT_S)
    await world.server.admission.drain(0.0)
    reader.let.set()
    await asyncio.wait_for(answer, WAIT_S)


async def test_a_drain_does_not_interrupt_the_last_message(world: World) -> None:
    await world.serve()
    reader = SlowReader()
    await outlive_the_grace(world, reader)
    assert [one.finish_reason for one in reader.taken if one.finish_reason] == [pb.LENGTH]
    assert count(world, "request_success", finished_reason="length") == 1
    assert count(world, "request_failures", code="UNAVAILABLE") == 0
    assert world.server.streams == 0


async def test_a_router_that_gives_up_is_told_of_also_during_a_drain(world: World) -> None:
    """Its last tokens are written outside the drain's reach too, and the error follows."""

    def give_up(submit):  # type: ignore[no-untyped-def]
        yield StreamOutput(submit.stream, [5], failure=StreamFailure("INTERNAL", "out of luck"))

    await world.serve(script=give_up)
    reader = SlowReader(slow=True)
    with pytest.raises(RequestError, match="out of luck"):
        await outlive_the_grace(world, reader)
    assert [list(one.token_ids) for one in reader.taken] == [[5]]
    assert count(world, "request_failures", code="INTERNAL") == 1
