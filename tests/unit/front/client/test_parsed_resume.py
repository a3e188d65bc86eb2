"""An answer with reasoning and tool calls, whose Front is lost behind any of its messages: nothing comes twice."""

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from router_service.client import resuming
from router_service.client.client import Client
from router_service.client.delivered import Delivered
from router_service.client.fields import request_of
from router_service.client.fronts import Fronts
from router_service.front.parsing.answer_parsers import parsers_of
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import StreamOutput, Submit
from router_service.text.tokenizer import Tokenizer
from tests.unit.front.api.test_answer_ends import ids_of_text
from tests.unit.front.api.test_parsed_answers import MESSAGES, TOOL, calls_of, reasoning_of
from tests.unit.front.calls import Responses, check_one_end, collect, ids_of, text_of
from tests.unit.front.client.lossy import Way
from tests.unit.front.front_fakes import FakeRouter
from tests.unit.front.front_world import World
from tests.unit.front.tagged_answers import TaggedAnswers

ANSWER = (
    "<think>h\u00e9 \u4f60 < b</think>well<call>look:{1, 2}</call> and<call>go:</call><call>see:[3]</call> so<|im_end|>"
)
HERMES = (
    "<think>\nh\u00e9 \u4f60\n</think>\n\nSee:\n"
    '<tool_call>\n{"name": "look", "arguments": {"at": "s\u00fcd"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call><|im_end|>'
)


class Continued:
    """A router's script: the tokens of an answer behind those that a continuation has."""

    def __init__(self, ids: list[int], router: FakeRouter) -> None:
        self._ids = ids
        self._router = router

    def __call__(self, submit: Submit) -> Iterator[StreamOutput]:
        assert submit.generated == self._ids[: len(submit.generated)]
        for id in self._ids[len(submit.generated) :]:
            yield StreamOutput(submit.stream, [id], finish="stop" if id in submit.sampling.stop_token_ids else None)


def joined(responses: Responses) -> dict[str, Any]:
    """All that a client has, but for the ids of calls, which a Front draws."""
    check_one_end(responses)
    last = responses[-1]
    return {
        "tokens": ids_of(responses),
        "text": text_of(responses),
        "reasoning": reasoning_of(responses),
        "calls": [(name, arguments) for _, name, arguments in calls_of(responses)],
        "end": (last.finish_reason, last.usage.generated_tokens, last.usage.reasoning_tokens),
    }


@pytest.fixture(params=["tagged", "hermes"])
async def talker(
    request: pytest.FixtureRequest, world: World, tokenizer: Tokenizer
) -> tuple[FakeRouter, pb.GenerateRequest]:
    """A router that gives an answer token by token, and the request for it."""
    real = request.param == "hermes"
    world.parsers = parsers_of("qwen3_moe", "qwen3", "hermes", "", tokenizer) if real else TaggedAnswers()
    router, _ = await world.serve(stall_after_steps=0)
    router.script = Continued(ids_of_text(tokenizer, HERMES if real else ANSWER), router)
    return router, request_of(None, None, MESSAGES, {"tools": [TOOL], "max_tokens": 500, "temperature": 0.0})


async def ask(world: World, request: pb.GenerateRequest, each: Callable[[], object] = bool) -> Responses:
    """The responses; `each` is called before each of them."""
    fronts, responses = Fronts([f"127.0.0.1:{world.server.grpc_port}"], None, 1), []
    each()
    async for response in fronts.inference.Generate(request):
        responses.append(response)
        each()
    await fronts.close()
    return responses


async def test_whatever_was_delivered_the_rest_completes_it(
    world: World, talker: tuple[FakeRouter, pb.GenerateRequest]
) -> None:
    router, request = talker
    whole = await ask(world, request, router.let_step)  # a token each
    router.stall_after_steps = None
    calm = joined(whole)
    assert calm["calls"]
    assert calm["reasoning"]
    assert len(whole) > 60
    for cut in range(len(whole)):
        delivered, had = Delivered(request), []
        for response in whole[:cut]:
            kept = pb.GenerateResponse()
            kept.CopyFrom(response)
            had.append(delivered.fresh(kept))
        rest = [delivered.fresh(response) for response in await ask(world, delivered.next_request())]
        assert joined([one for one in (*had, *rest) if one is not None]) == calm, cut
        assert delivered.finished


@pytest.mark.parametrize("after", [3, 30, 60, 80])
async def test_over_connections_that_are_lost(
    world: World, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(resuming, "FIRST_PAUSE_S", 0.001)
    world.parsers = TaggedAnswers()
    router, direct = await world.serve()
    router.script = Continued(ids_of_text(tokenizer, ANSWER), router)
    request: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 500}
    calm = joined(await collect(direct, **request))
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(Way(world.server.grpc_port)) for _ in range(2)]
        client = await stack.enter_async_context(Client([way.target for way in ways]))
        router.stall_after_steps = router.steps + after
        responses = []
        async for response in client.generate(**request):
            responses.append(response)
            if router.stall_after_steps is not None and len(ids_of(responses)) >= after - 2:
                ways[0].lose()
                router.stall_after_steps = None
        assert joined(responses) == calm
        assert ways[1].accepted == 1


async def test_several_answers_do_not_go_on(world: World) -> None:
    router, _ = await world.serve()
    async with Way(world.server.grpc_port) as way, Client([way.target, way.target]) as client:
        router.stall_after_steps = router.steps + 3
        stream = client.generate("hello world", n=2, max_tokens=400)
        await anext(stream)
        way.cut()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [_ async for _ in stream]
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert way.accepted == 1


async def test_an_echo_that_came_before_the_first_token_comes_once(world: World, tokenizer: Tokenizer) -> None:
    """And no more once there is a token."""
    await world.serve()
    ids = ids_of_text(tokenizer, "hello")
    request = pb.GenerateRequest(prompt="hello", echo=True, sampling=pb.Sampling(max_tokens=4))
    first = pb.GenerateResponse(prompt_text="hel", prompt_token_ids=ids[:1])
    delivered = Delivered(request)
    assert delivered.fresh(first) is not None
    fronts = Fronts([f"127.0.0.1:{world.server.grpc_port}"], None, 1)
    rest = [delivered.fresh(one) async for one in fronts.inference.Generate(delivered.next_request())]
    kept = [one for one in rest if one is not None]
    assert "".join(one.prompt_text for one in kept) == "lo"
    assert [id for one in kept for id in one.prompt_token_ids] == ids[1:]
    request.continuation.token_ids.extend([5])
    again = [one async for one in fronts.inference.Generate(request)]
    assert not any(one.prompt_text or one.prompt_token_ids for one in again)
    await fronts.close()
