"""OpenAI's objects that bodies carry as they are and `protocol/chat_messages.py` reads: for the document only."""

from typing import Any, Literal

import msgspec


class TextPart(msgspec.Struct, frozen=True):
    """A part of a message; text is the only type."""

    type: Literal["text"]
    text: str


class CalledFunction(msgspec.Struct, frozen=True):
    """The function that was called; `arguments` is JSON, as text or as an object."""

    name: str
    arguments: str | dict[str, Any] | None = None


class MessageToolCall(msgspec.Struct, frozen=True):
    """A call of an earlier answer."""

    function: CalledFunction
    id: str | None = None
    type: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """A message of a conversation. Templates may take more roles than these."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class ToolFunction(msgspec.Struct, frozen=True):
    """What a tool does; `parameters` is a JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolObject(msgspec.Struct, frozen=True):
    """A tool that the model may call."""

    type: Literal["function"]
    function: ToolFunction


# The type of the entries of these fields, in whichever body they are.
ENTRIES: dict[str, type[msgspec.Struct]] = {"messages": ChatMessage, "tools": ToolObject}
