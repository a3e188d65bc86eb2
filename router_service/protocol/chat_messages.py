"""Conversations in the form of OpenAI's API (JSON objects) as messages of the gRPC API."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from router_service.protocol import inference_pb2 as pb

# A reasoning's other name, which some servers and clients use.
REASONING = ("reasoning_content", "reasoning")


def chat_of(messages: Iterable[Mapping[str, Any]], tools: Iterable[Mapping[str, Any]] = ()) -> pb.Chat:
    """Return a chat of `messages` and `tools`.

    Raises:
        ValueError: one has not OpenAI's form; the message names the field.
    """
    made = [message_of(message, f"messages[{index}]") for index, message in enumerate(messages)]
    return pb.Chat(messages=made, tools=[json.dumps(tool, ensure_ascii=False) for tool in tools])


def message_of(message: Mapping[str, Any], field: str = "message") -> pb.Message:
    """Return one message; keys that are None are as if they were absent, unknown ones are left out.

    Raises:
        ValueError: a value has not OpenAI's form.
    """
    made = pb.Message(role=_text(message, "role", field) or "")
    if isinstance(content := message.get("content"), str):
        made.content = content
    elif content is not None:
        made.parts.extend(_parts(content, f"{field}.content"))
    for key in ("name", "tool_call_id"):
        setattr(made, key, _text(message, key, field) or "")
    for key in REASONING:
        if (reasoning := _text(message, key, field)) is not None:
            made.reasoning_content = reasoning
            break
    for index, call in enumerate(_list(message.get("tool_calls"), f"{field}.tool_calls")):
        made.tool_calls.append(_call(call, f"{field}.tool_calls[{index}]"))
    return made


def _parts(content: object, field: str) -> Iterable[pb.ContentPart]:
    for index, part in enumerate(_list(content, field)):
        kind, text = part.get("type"), part.get("text")
        if kind != "text" or not isinstance(text, str):
            raise ValueError(f"{field}[{index}]: must be a part of type text with its text, got type {kind!r}")
        yield pb.ContentPart(type=kind, text=text)


def _call(call: Mapping[str, Any], field: str) -> pb.ToolCall:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"{field}.function: must be an object with a name")
    arguments = function.get("arguments") or "{}"
    given = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return pb.ToolCall(id=_text(call, "id", field) or "", name=function["name"], arguments=given)


def _list(value: object, field: str) -> list[Mapping[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(one, Mapping) for one in value):
        raise ValueError(f"{field}: must be a list of objects")
    return list(value)


def _text(values: Mapping[str, Any], key: str, field: str) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{field}.{key}: must be a text, got {type(value).__name__}")
    return value
