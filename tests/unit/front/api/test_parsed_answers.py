"""Chats' answers with reasoning and tool calls taken out of the text."""

from typing import Any

import grpc
import pytest

from router_service.front.parsing.answer_parsers import parsers_of
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Structured
from router_service.text.tokenizer import Tokenizer
from tests.unit.front.api.test_answer_ends import ids_of_text, reason_of, says
from tests.unit.front.calls import Responses, check_one_end, collect, ids_of, text_of
from tests.unit.front.front_world import World
from tests.unit.front.tagged_answers import TaggedAnswers

MESSAGES = [{"role": "user", "content": "hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
ANSWER = "<think>h\u00e9 \u4f60 < b</think>well<call>look:{1}</call> and<call>go:</call>"


def calls_of(responses: Responses) -> list[tuple[str, str, str]]:
    """Id, name and arguments of each call, put together as a client does."""
    calls: dict[int, list[str]] = {}
    for delta in (delta for response in responses for delta in response.tool_calls):
        if delta.index not in calls:
            calls[delta.index] = [delta.id, delta.name, ""]
        else:
            assert (delta.id, delta.name) == ("", "")
        calls[delta.index][2] += delta.arguments
    return [(id, name, arguments) for id, name, arguments in calls.values()]


def reasoning_of(responses: Responses) -> str:
    return "".join(response.reasoning for response in responses)


async def answer(world: World, tokenizer: Tokenizer, said: str, **fields: Any) -> Responses:
    _, client = await world.serve(script=says(ids_of_text(tokenizer, said)))
    responses = await collect(client, **{"messages": MESSAGES, "max_tokens": 200} | fields)
    check_one_end(responses)
    return responses


async def test_an_answer_is_divided_into_its_parts(world: World, tokenizer: Tokenizer) -> None:
    world.parsers = TaggedAnswers()
    responses = await answer(world, tokenizer, f"{ANSWER}<|im_end|>")
    assert reasoning_of(responses) == "h\u00e9 \u4f60 < b"
    assert text_of(responses) == "well and"
    assert calls_of(responses) == [("call-0", "look", "{1}"), ("call-1", "go", "")]
    assert responses[-1].finish_reason == pb.TOOL_CALLS
    assert ids_of(responses) == ids_of_text(tokenizer, f"{ANSWER}<|im_end|>")
    assert world.parsers.prompts == ["<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"raw_output": True}, ANSWER),
        ({"messages": [{"role": "user", "content": "no parser"}]}, ANSWER),
        ({"messages": None, "prompt": "hello"}, ANSWER),
    ],
)
async def test_what_is_not_parsed_is_text(
    world: World, tokenizer: Tokenizer, fields: dict[str, Any], expected: str
) -> None:
    world.parsers = TaggedAnswers()
    responses = await answer(world, tokenizer, f"{ANSWER}<|im_end|>", **fields)
    assert (text_of(responses), reasoning_of(responses), calls_of(responses)) == (expected, "", [])
    assert responses[-1].finish_reason == pb.STOP
    assert responses[-1].usage.reasoning_tokens == 0


async def test_what_was_held_back_comes_at_the_end(world: World, tokenizer: Tokenizer) -> None:
    world.parsers = TaggedAnswers()
    responses = await answer(world, tokenizer, "well <thi<|im_end|>")
    assert (text_of(responses), responses[-1].finish_reason) == ("well <thi", pb.STOP)


async def test_a_call_that_was_cut_off_is_no_call_to_make(world: World, tokenizer: Tokenizer) -> None:
    world.parsers = TaggedAnswers()
    responses = await answer(world, tokenizer, "<call>look:{1")
    assert (calls_of(responses), responses[-1].finish_reason) == ([("call-0", "look", "{1")], pb.LENGTH)


async def test_a_stop_text_acts_on_all_that_is_generated(world: World, tokenizer: Tokenizer) -> None:
    world.parsers = TaggedAnswers()
    responses = await answer(world, tokenizer, f"{ANSWER}<|im_end|>", stop=["}</call>"])
    assert (calls_of(responses), responses[-1].finish_reason) == ([("call-0", "look", "{1")], pb.TOOL_CALLS)
    assert reason_of(responses) == "}</call>"


async def test_a_stop_text_in_the_reasoning_may_be_returned(world: World, tokenizer: Tokenizer) -> None:
    world.parsers = TaggedAnswers()
    responses = await answer(world, tokenizer, ANSWER, stop=["< b"], include_stop_text=True)
    assert (reasoning_of(responses), text_of(responses)) == ("h\u00e9 \u4f60 < b", "")
    assert responses[-1].finish_reason == pb.STOP


async def test_tokens_of_the_reasoning_are_counted(world: World, tokenizer: Tokenizer) -> None:
    world.parsers = TaggedAnswers()
    inside = ids_of_text(tokenizer, "why")
    ids = [id for part in ("<think>", "why", "</think>", "well") for id in ids_of_text(tokenizer, part)]
    _, client = await world.serve(script=says(ids))
    responses = await collect(client, messages=MESSAGES, max_tokens=100)
    # Those of the closing tag belong to it until it is complete.
    closing = len(ids_of_text(tokenizer, "</think>")) - 1
    assert responses[-1].usage.reasoning_tokens == len(inside) + closing
    assert reasoning_of(responses) == "why"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "a<|im_start|>b"),
        ({"raw_output": True}, "ab"),
        ({"ignore_eos": True}, "a<|im_start|>b"),
        ({"skip_special_tokens": False}, "a<|im_start|>b<|endoftext|>"),
    ],
)
async def test_a_parser_sees_the_markers_and_no_other_special_token(
    world: World, tokenizer: Tokenizer, fields: dict[str, Any], expected: str
) -> None:
    world.parsers = TaggedAnswers(marker_ids=frozenset({1}))
    responses = await answer(world, tokenizer, "a<|im_start|>b<|endoftext|><|im_end|>", **fields)
    assert text_of(responses).removesuffix("<|im_end|>") == expected


async def test_each_of_several_answers_has_its_parser(world: World, tokenizer: Tokenizer) -> None:
    world.parsers = TaggedAnswers()
    _, client = await world.serve(script=says(ids_of_text(tokenizer, f"{ANSWER}<|im_end|>")))
    responses = await collect(client, messages=MESSAGES, max_tokens=200, n=3)
    for index in range(3):
        own = [response for response in responses if response.index == index]
        assert (text_of(own), reasoning_of(own)) == ("well and", "h\u00e9 \u4f60 < b")
        assert [name for _, name, _ in calls_of(own)] == ["look", "go"]


async def test_a_router_is_told_what_answers_must_be(world: World) -> None:
    world.parsers = TaggedAnswers()
    world.parsers.bound_to = Structured("regex", "[ab]+")
    router, client = await world.serve()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    await collect(client, "x", json_schema=schema, max_tokens=1)
    await collect(client, messages=MESSAGES, regex="a+", max_tokens=1)
    await collect(client, messages=MESSAGES, tools=[TOOL], tool_choice="look", max_tokens=1, n=2)
    await collect(client, messages=MESSAGES, choice=["yes", "no"], max_tokens=1, raw_output=True)
    kinds = [submit.sampling.structured for submit in router.submits]
    assert [one.kind if one else "" for one in kinds] == ["json_schema", "regex", "regex", "regex", "regex"]
    assert [one.text for one in kinds[1:4] if one] == ["a+", "[ab]+", "[ab]+"]


@pytest.mark.parametrize(
    ("fields", "field"), [({"regex": "("}, "sampling.regex"), ({"tools": [TOOL], "tool_choice": "look"}, "chat.tools")]
)
async def test_a_form_that_cannot_be_is_named(world: World, fields: dict[str, Any], field: str) -> None:
    world.parsers = TaggedAnswers()
    world.parsers.bound_to = Structured("regex", "(")
    router, client = await world.serve()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, messages=MESSAGES, max_tokens=1, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).startswith(f"{field}: ")
    assert router.submits == []


async def test_a_real_format_end_to_end(world: World, tokenizer: Tokenizer) -> None:
    world.parsers = parsers_of("qwen3_moe", "qwen3", "hermes", "", tokenizer)
    said = (
        'so</think>\n\nLet me see.\n<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call><|im_end|>'
    )
    responses = await answer(world, tokenizer, f"<think>{said}", tools=[TOOL])
    assert reasoning_of(responses).strip() == "so"
    assert text_of(responses).strip() == "Let me see."
    ((_, name, arguments),) = calls_of(responses)
    assert (name, arguments) == ("look", '{"at": "sky"}')
    assert responses[-1].finish_reason == pb.TOOL_CALLS
    model = await world.clients[0].model()
    assert (model.reasoning_parser, model.tool_parser) == ("qwen3", "hermes")
