"""Input items as messages of a chat, and what bodies are refused for."""

import json
from typing import Any

import msgspec
import pytest

from router_service.front.errors import RequestError
from router_service.front.openai.responses.body import ResponsesBody
from router_service.front.openai.responses.items import messages_of
from router_service.front.openai.responses.request import responses_request
from router_service.protocol import inference_pb2 as pb


def call_item(name: str, call_id: str = "c1", arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}


def test_a_text_is_the_users_message_behind_the_instructions() -> None:
    messages = messages_of("hi", "be brief")
    assert [(one.role, one.content) for one in messages] == [("system", "be brief"), ("user", "hi")]


def test_messages_have_texts_or_parts() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    one, two, said = messages_of(
        [
            {"role": "developer", "content": "rules"},
            {"type": "message", "role": "user", "content": parts},
            {
                "role": "assistant",
                "content": [{"type": "output_text", "text": "c"}, {"type": "refusal", "refusal": "d"}],
            },
        ]
    )
    assert (one.role, one.content) == ("developer", "rules")
    assert [part.text for part in two.parts] == ["a", "b"]
    assert (said.role, said.content) == ("assistant", "cd")


def test_a_turn_of_the_assistant_is_one_message() -> None:
    messages = messages_of(
        [
            {"role": "user", "content": "add"},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"role": "assistant", "content": "I add."},
            call_item("add", "c1", '{"a": 1}'),
            call_item("add", "c2"),
            {"type": "function_call_output", "call_id": "c1", "output": "3"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "4"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}], "encrypted_content": "x"},
            {"role": "assistant", "content": "7"},
            {"role": "assistant", "content": "indeed"},
        ]
    )
    assert [one.role for one in messages] == ["user", "assistant", "tool", "tool", "assistant", "assistant"]
    turn = messages[1]
    assert (turn.reasoning_content, turn.content) == ("hm", "I add.")
    assert [(one.id, one.name, one.arguments) for one in turn.tool_calls] == [
        ("c1", "add", '{"a": 1}'),
        ("c2", "add", "{}"),
    ]
    assert [(one.tool_call_id, one.content) for one in messages[2:4]] == [("c1", "3"), ("c2", "4")]
    assert (messages[4].reasoning_content, messages[4].content) == ("so", "7")
    assert messages[5].content == "indeed"


def test_reasoning_that_cannot_be_read_is_left_out() -> None:
    reasoning = {"type": "reasoning", "summary": [], "encrypted_content": "secret"}
    assert [one.role for one in messages_of([reasoning, {"role": "user", "content": "x"}])] == ["user"]


REFUSED: dict[str, Any] = {
    "input[0].type: item_reference needs a stored item": {"type": "item_reference", "id": "x"},
    "input[0].type: must be one of message, function_call": {"type": "web_search_call"},
    "input[0].role: must be one of system": {"role": "robot", "content": "x"},
    "input[0].content: must be a text or a list of parts, got int": {"role": "user", "content": 1},
    "input[0].content[0].type: must be one of input_text": {"role": "user", "content": [{"type": "input_image"}]},
    "input[0].content[0].type: must be one of input_text, output_text": {"role": "user", "content": ["x"]},
    "input[0].content[0].text: must be a text, got NoneType": {"role": "user", "content": [{"type": "input_text"}]},
    "input[0].call_id: must be a text": {"type": "function_call", "name": "x", "arguments": "{}"},
    "input[0].output: must be a text or a list of parts, got NoneType": {"type": "function_call_output"},
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_items_are_refused_by_name(words: str) -> None:
    with pytest.raises(RequestError) as refused:
        messages_of([REFUSED[words]])
    assert refused.value.message.startswith(words)
    assert refused.value.field == words.partition(":")[0]


def request_of(**fields: Any) -> pb.GenerateRequest:
    body = msgspec.json.decode(json.dumps({"input": "x"} | fields).encode(), type=ResponsesBody)
    return responses_request(body)


def test_fields_are_those_of_a_chat() -> None:
    tool = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True, "description": None}
    request = request_of(
        max_output_tokens=7,
        temperature=0.5,
        top_k=4,
        seed=3,
        tools=[tool],
        tool_choice={"type": "function", "name": "add"},
        parallel_tool_calls=False,
        reasoning={"effort": "high"},
        chat_template_kwargs={"enable_thinking": True},
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=2,
    )
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_k, sampling.seed) == (7, 0.5, 4, 3)
    assert sampling.logprobs == 2
    expected = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}, "strict": True}}
    assert [json.loads(one) for one in request.chat.tools] == [expected]
    assert request.chat.tool_choice == pb.ToolChoice(mode=pb.ToolChoice.NAMED, name="add")
    assert request.chat.parallel_tool_calls is False
    assert json.loads(request.chat.template_kwargs) == {"reasoning_effort": "high", "enable_thinking": True}


def test_the_form_of_the_text() -> None:
    assert request_of(text={"format": {"type": "text"}}).sampling.WhichOneof("structured") is None
    assert request_of(text={"format": {"type": "json_object"}}).sampling.json_object
    form = {"type": "json_schema", "name": "n", "schema": {"type": "integer"}, "strict": True}
    assert json.loads(request_of(text={"format": form}).sampling.json_schema) == {"type": "integer"}


UNSUPPORTED: dict[str, dict[str, Any]] = {
    "previous_response_id: responses are not stored here: send the earlier items": {"previous_response_id": "r"},
    "conversation: conversations are not stored here": {"conversation": {"id": "c"}},
    "background: nothing is answered in the background": {"background": True},
    "prompt: prompts are not stored here": {"prompt": {"id": "p"}},
    "truncation: must be disabled, got 'auto'": {"truncation": "auto"},
    "n: a response is one answer, got 2": {"n": 2},
    "echo: has no place in a response": {"echo": True},
    "prompt_logprobs: has no place in a response": {"prompt_logprobs": 0},
    "tools[0].type: must be function, got 'web_search'": {"tools": [{"type": "web_search"}]},
    "tools[0].name: is required": {"tools": [{"type": "function"}]},
    "tool_choice: must be one of auto, none, required": {"tool_choice": "maybe"},
    "text.format.type: must be one of text": {"text": {"format": {"type": "xml"}}},
    "text.format.schema: is required": {"text": {"format": {"type": "json_schema"}}},
    "text.format: an answer has one form": {"text": {"format": {"type": "json_object"}}, "guided_regex": "a"},
}


@pytest.mark.parametrize("words", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(words: str) -> None:
    with pytest.raises(RequestError) as refused:
        request_of(**UNSUPPORTED[words])
    assert refused.value.message.startswith(words)


def test_nulls_are_unset() -> None:
    names = [name for name in ResponsesBody.__struct_fields__ if name != "input"]
    assert request_of(**dict.fromkeys(names)) == request_of()
