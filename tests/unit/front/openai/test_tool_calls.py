"""Reasoning and tool calls, as the gRPC API gives them, in the form of chats."""

import json
from typing import Any

import msgspec
import openai.types.chat as chat_types
import pytest

from router_service.front.openai.answers.chat_reply import ChatReply
from router_service.front.openai.answers.chat_stream import ChatStream
from router_service.front.openai.answers.chunks import ReplyHead
from router_service.front.openai.requests.chat import chat_request
from router_service.front.openai.requests.chat_body import ChatBody
from router_service.protocol import inference_pb2 as pb
from tests.unit.front.openai.caller import events_in

HEAD = ReplyHead("chatcmpl-a", 1, "tiny")
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
ANSWER = [
    pb.GenerateResponse(token_ids=[1], reasoning="Let me "),
    pb.GenerateResponse(token_ids=[2], reasoning="see."),
    pb.GenerateResponse(token_ids=[3], text="I ask."),
    pb.GenerateResponse(token_ids=[4], tool_calls=[pb.ToolCallDelta(index=0, id="call_1", name="weather")]),
    pb.GenerateResponse(token_ids=[5], tool_calls=[pb.ToolCallDelta(index=0, arguments='{"city":')]),
    pb.GenerateResponse(
        token_ids=[6],
        tool_calls=[
            pb.ToolCallDelta(index=0, arguments='"Rome"}'),
            pb.ToolCallDelta(index=1, id="call_2", name="time", arguments="{}"),
        ],
    ),
    pb.GenerateResponse(
        token_ids=[7],
        finish_reason=pb.TOOL_CALLS,
        usage=pb.Usage(prompt_tokens=9, generated_tokens=7, cached_prompt_tokens=4, reasoning_tokens=2),
    ),
]


def body(**fields: Any) -> ChatBody:
    return ChatBody(messages=[{"role": "user", "content": "hi"}], **fields)


def replied(asked: ChatBody, answer: list[pb.GenerateResponse]) -> dict[str, Any]:
    reply = ChatReply(asked, HEAD)
    for response in answer:
        reply.add(0, response)
    made: dict[str, Any] = json.loads(reply.reply())
    return made


def streamed(asked: ChatBody, answer: list[pb.GenerateResponse]) -> list[Any]:
    stream = ChatStream(asked, HEAD)
    return events_in(b"".join([*(stream.encode(0, response) for response in answer), stream.end()]))


def test_a_reply() -> None:
    made = chat_types.ChatCompletion.model_validate(replied(body(), ANSWER))
    (choice,) = made.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I ask."
    assert choice.message.model_extra == {"reasoning_content": "Let me see."}
    assert choice.message.tool_calls is not None
    called = [call.model_dump() for call in choice.message.tool_calls]
    assert called == [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]
    assert made.usage is not None
    assert made.usage.completion_tokens_details is not None
    assert made.usage.completion_tokens_details.reasoning_tokens == 2
    assert made.usage.prompt_tokens_details is not None
    assert made.usage.prompt_tokens_details.cached_tokens == 4


def test_events() -> None:
    *chunks, done = streamed(body(), ANSWER)
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Let me "},
        {"reasoning_content": "see."},
        {"content": "I ask."},
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": '"Rome"}'}},
                {"index": 1, "id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
            ]
        },
        {},
    ]
    for chunk in chunks:
        chat_types.ChatCompletionChunk.model_validate(chunk)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_calls_alone_have_no_content() -> None:
    assert replied(body(), ANSWER[3:])["choices"][0]["message"]["content"] is None


def test_reasoning_may_be_left_out() -> None:
    asked = body(include_reasoning=False)
    assert "reasoning_content" not in replied(asked, ANSWER)["choices"][0]["message"]
    assert not [one for one in streamed(asked, ANSWER)[:-1] if "reasoning_content" in one["choices"][0]["delta"]]


def test_what_a_chat_says_of_tools_and_templates() -> None:
    asked = body(
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        documents=[{"title": "a"}],
        reasoning_effort="high",
        chat_template_kwargs={"enable_thinking": False},
        add_generation_prompt=False,
        continue_final_message=True,
    )
    chat = chat_request(asked).chat
    assert json.loads(chat.tools[0]) == TOOL
    assert (chat.tool_choice.mode, chat.tool_choice.name) == (pb.ToolChoice.NAMED, "weather")
    assert (chat.parallel_tool_calls, chat.add_generation_prompt, chat.continue_final_message) == (False, False, True)
    assert json.loads(chat.documents[0]) == {"title": "a"}
    assert json.loads(chat.template_kwargs) == {"reasoning_effort": "high", "enable_thinking": False}
    unset = chat_request(body()).chat
    assert not unset.HasField("parallel_tool_calls")
    assert not unset.HasField("add_generation_prompt")
    assert not unset.HasField("tool_choice")


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "json_object", True),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}},
            "json_schema",
            None,
        ),
        ({"structured_outputs": {"json": {"type": "object"}}}, "json_schema", None),
        ({"structured_outputs": {"json_object": True}}, "json_object", True),
        ({"guided_json": '{"type":"object"}'}, "json_schema", None),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"guided_regex": "a+"}, "regex", "a+"),
        ({"guided_grammar": "start: /a/"}, "grammar", "start: /a/"),
        ({"response_format": {"type": "text"}}, None, None),
    ],
)
def test_structured_output(fields: dict[str, Any], kind: str | None, value: object) -> None:
    raw = json.dumps({"messages": [{"role": "user", "content": "hi"}]} | fields)
    sampling = chat_request(msgspec.json.decode(raw, type=ChatBody)).sampling
    assert sampling.WhichOneof("structured") == kind
    if kind == "json_schema":
        assert json.loads(sampling.json_schema) == {"type": "object"}
    elif kind is not None:
        assert getattr(sampling, kind) == value


def test_choices() -> None:
    assert list(chat_request(body(guided_choice=["a", "b"])).sampling.choice.texts) == ["a", "b"]


def test_routing_of_each_token() -> None:
    layer = pb.LayerRouting(layer=2, experts=[3, 5], weights=[0.75, 0.25], shards=[0, 1])
    answer = [
        pb.GenerateResponse(routing=[pb.TokenRouting(layers=[layer])]),
        pb.GenerateResponse(token_ids=[1], text="a", finish_reason=pb.STOP, usage=pb.Usage(generated_tokens=1)),
    ]
    position = [{"layer": 2, "experts": [3, 5], "weights": [0.75, 0.25], "shards": [0, 1]}]
    asked = body(return_routing=True)
    assert replied(asked, answer)["choices"][0]["routing"] == [position]
    events = streamed(asked, answer)
    assert events[0]["choices"][0]["routing"] == [position]
    assert chat_request(asked).return_routing
