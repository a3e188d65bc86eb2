"""A request's fallback on its way to the router, and the marks of degraded tokens on theirs to the client."""

import asyncio

import grpc
import grpc.aio
import pytest

from router_service.front.api.answers.answer_text import AnswerText, TextRules
from router_service.front.api.answers.response_builder import ResponseBuilder
from router_service.front.routing.stream_queue import Arrival
from router_service.front.telemetry.request_record import RequestRecord
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.fallback import Fallback
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.protocol.messages import StreamOutput
from router_service.text.tokenizer import Tokenizer
from tests.support.routed import Layer, part_of
from tests.unit.front.calls import Responses, collect, ids_of
from tests.unit.front.degraded import degraded_from, degraded_if
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World


def marks_of(responses: Responses) -> list[int]:
    marks, before = list[int](), 0
    for response in responses:
        marks += [before + index for index in response.degraded_token_indexes]
        before += len(response.token_ids)
    return marks


@pytest.mark.parametrize("fallback", ["", *(policy.value for policy in Fallback)])
async def test_the_fallback_reaches_the_router(world: World, fallback: str) -> None:
    router, client = await world.serve()
    await collect(client, "hello", max_tokens=1, fallback=fallback)
    assert router.submits[0].fallback == fallback


async def test_an_unknown_fallback_is_refused(world: World) -> None:
    router, client = await world.serve()
    with pytest.raises(ValueError, match="fallback must be one of wait, drop, next_best, fail, or empty, not 'owl'"):
        await collect(client, "hello", max_tokens=1, fallback="owl")
    request = pb.GenerateRequest(prompt="hello", fallback=17)  # type: ignore[arg-type]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in InferenceStub(channel).Generate(request)]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    expected = "fallback: must be one of FALLBACK_UNSPECIFIED, WAIT, DROP, NEXT_BEST, FAIL, got 17"
    assert caught.value.details() == expected
    assert router.submits == []


async def test_degraded_tokens_are_marked_and_counted(world: World) -> None:
    _, client = await world.serve(script=degraded_if(lambda number: number in (1, 4)))
    responses = await collect(client, "hello", max_tokens=6, fallback="drop")
    assert marks_of(responses) == [1, 4]
    assert responses[-1].usage.degraded_tokens == 2


async def test_an_undisturbed_answer_has_no_marks(world: World) -> None:
    _, client = await world.serve()
    responses = await collect(client, "hello", max_tokens=6, fallback="drop")
    assert (marks_of(responses), responses[-1].usage.degraded_tokens) == ([], 0)


def test_marks_are_of_the_message_they_come_in(tokenizer: Tokenizer) -> None:
    """Several outputs in one message, and a stop text behind which tokens and their marks are left out."""
    record = RequestRecord("id", lambda: 0.0)
    builder = ResponseBuilder(record, tokenizer, AnswerText(tokenizer, TextRules(stops=["END"])))
    ids = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "zqjvEND"]
    parts = [StreamOutput(1, ids[:1]), StreamOutput(1, ids[1:3], degraded=[1]), StreamOutput(1, ids[3:4], degraded=[0])]
    (response,) = builder.extend([Arrival(0.0, part) for part in parts])
    assert list(response.degraded_token_indexes) == [2, 3]
    last = StreamOutput(1, [*ids[4:], 5, 6], degraded=[0, len(ids) - 4, len(ids) - 3])
    (response,) = builder.extend([Arrival(0.0, last)])
    assert (response.finish_reason, len(response.token_ids)) == (pb.STOP, len(ids) - 4)
    assert list(response.degraded_token_indexes) == [0]
    assert response.usage.degraded_tokens == 3


async def test_another_routers_tokens_are_judged_by_itself(world: World) -> None:
    """The first one makes do without some experts; the next one computes all anew, and has them."""
    first, client = await world.serve(step_s=0.002, die_after_steps=5, script=degraded_from(2))
    task = asyncio.create_task(collect(client, "hello world fox", max_tokens=20, fallback="next_best"))
    await until(lambda: bool(first.submits))
    second = await world.router(name="r1")
    responses = await task
    assert second.submits[0].fallback == "next_best"
    assert len(ids_of(responses)) == 20
    assert marks_of(responses) == [2, 3, 4]
    assert responses[-1].usage.degraded_tokens == 3


async def test_a_dropped_expert_is_left_out_of_the_routing(world: World) -> None:
    layer = Layer(1, [3, 0xFFFF], [1.0, 0.0], [0, 0xFFFF])
    _, client = await world.serve(
        script=lambda submit: iter([StreamOutput(submit.stream, [5], routing=part_of(0, [[layer]]), finish="length")])
    )
    responses = await collect(client, "hello", max_tokens=1, return_routing=True)
    expected = pb.LayerRouting(layer=1, experts=[3], weights=[1.0], shards=[0])
    assert [one for response in responses for one in response.routing] == [pb.TokenRouting(layers=[expected])]
