"""Chats of every kind through templates of every family: the ids are those of transformers."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from router_service.front.api.prompts.chat_prompt import render_chat
from router_service.front.api.prompts.prompt import encode_rendered
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.chat_messages import chat_of
from router_service.text.text_model import TextModel
from tests.unit.text.family_templates import FAMILIES
from tests.unit.text.family_world import load_family

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Weather "now" <b> & \u00e9',
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {
                "city": {"type": "string", "description": "which"},
                "days": {"type": "array", "items": {"type": "integer"}, "description": "when"},
                "unit": {"type": "string", "enum": ["c", "f"], "description": "how"},
            },
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


def call(id: str, arguments: dict[str, object]) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


ASKED: dict[str, Any] = {"role": "user", "content": "weather? \U0001f600\n"}
CALLED: dict[str, Any] = {"role": "assistant", "tool_calls": [call("abcdefghi", {"city": "K\u00f6ln", "days": [1, 2]})]}
ANSWERED: dict[str, Any] = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": '{"t": 3}'}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "be  brief <b>&"},
    {"role": "user", "content": "h\u00e9llo"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\n a "},
    {"role": "user", "content": "{{ 1 + 1 }}"},
]
CHATS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one message": ([{"role": "user", "content": "hi"}], {}),
    "turns": (TURNS, {}),
    "tools": (TURNS, {"tools": [WEATHER]}),
    "a call": ([ASKED, CALLED, ANSWERED], {"tools": [WEATHER]}),
    "a call in the past": ([ASKED, CALLED, ANSWERED, {"role": "assistant", "content": "3"}, ASKED], {}),
    "a call with content": ([ASKED, CALLED | {"content": "let me see"}, ANSWERED], {"tools": [WEATHER]}),
    "reasoning": ([ASKED, {"role": "assistant", "content": "a", "reasoning_content": "b\nc"}, ASKED], {}),
    "reasoning and a call": ([ASKED, CALLED | {"reasoning_content": " why "}, ANSWERED], {"tools": [WEATHER]}),
    "thinking off": (TURNS, {"enable_thinking": False}),
    "thinking on": (TURNS, {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}),
    "documents": (TURNS, {"documents": [{"doc_id": 1, "text": "a"}, {"doc_id": 2, "text": "b", "title": "c"}]}),
    "a variable": (TURNS, {"date_string": "1 Jan 2030", "nested": {"b": [1, None], "a": "\u00e9"}}),
    "no prompt": (TURNS, {"add_generation_prompt": False}),
    "continued": ([*TURNS, {"role": "assistant", "content": "so far "}], {"continue_final_message": True}),
    "continued question": ([{"role": "user", "content": "so  far\n"}], {"continue_final_message": True}),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]}], {}),
}
TEXT_ONLY = ("qwen3", "hermes", "deepseek", "llama json", "mistral", "harmony", "granite", "command-r")
OURS = ("tools", "documents", "add_generation_prompt", "continue_final_message")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, TextModel, Any]:
    directory = tmp_path_factory.mktemp("family")
    text = load_family(directory, request.param)
    return request.param, text, PreTrainedTokenizerFast.from_pretrained(directory)


@pytest.mark.parametrize("kind", CHATS)
def test_ids_are_those_of_transformers(family: tuple[str, TextModel, Any], kind: str) -> None:
    name, text, oracle = family
    assert text.chat is not None
    messages, fields = CHATS[kind]
    expected = oracle_ids(oracle, as_the_template_takes(name, messages), fields)
    ids = encoded(chat(messages, fields), text)
    assert ids == expected, text.tokenizer.decode(ids, skip_special_tokens=False)


def chat(messages: list[dict[str, Any]], fields: dict[str, Any]) -> pb.Chat:
    made = chat_of(messages, fields.get("tools", ()))
    made.documents.extend(json.dumps(document) for document in fields.get("documents", ()))
    for key in ("add_generation_prompt", "continue_final_message"):
        if key in fields:
            setattr(made, key, fields[key])
    made.template_kwargs = json.dumps({key: value for key, value in fields.items() if key not in OURS})
    return made


def encoded(chat: pb.Chat, text: TextModel, special: bool = False) -> list[int]:
    async def encode() -> list[int]:
        return await encode_rendered(await render_chat(chat, text, special), text)

    return asyncio.run(encode())


def oracle_ids(oracle: Any, messages: list[dict[str, Any]], fields: dict[str, Any]) -> list[int]:
    prompt = {"add_generation_prompt": not fields.get("continue_final_message", False)}
    ids: list[int] = oracle.apply_chat_template(messages, return_dict=False, **prompt | fields)
    return ids


def as_the_template_takes(family: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a caller of transformers has to know of the template."""
    return [dict(as_one_takes(family, message)) for message in messages]


def as_one_takes(family: str, message: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in message.items():
        if key == "content" and family in TEXT_ONLY and isinstance(value, list):
            yield key, "\n".join(part["text"] for part in value)
        elif key == "content" and family == "parts" and isinstance(value, str):
            yield key, [{"type": "text", "text": value}]
        elif key == "tool_calls" and family == "deepseek":
            yield key, [with_text(one) for one in value]
            # None, which this template asks for, is what transformers 5 leaves out.
            yield "content", message.get("content", "")
        else:
            yield key, value


def with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return call | {"function": function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
