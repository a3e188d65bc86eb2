"""Input items of the Responses API as messages of the gRPC API."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from router_service.front.errors import invalid
from router_service.protocol import inference_pb2 as pb
from router_service.text.chats.conversation import ROLES

SHOWN_CHARACTERS = 64
# The fields of a part that have its text; models take no other parts.
TEXTS = {
    "input_text": "text",
    "output_text": "text",
    "text": "text",
    "reasoning_text": "text",
    "summary_text": "text",
    "refusal": "refusal",
}


def messages_of(given: str | Sequence[Mapping[str, Any]], instructions: str | None = None) -> list[pb.Message]:
    """Return the conversation: `instructions` as the system's message, then the items.

    What an assistant said in one turn, its reasoning, text and calls, is one message.

    Raises:
        RequestError: INVALID_ARGUMENT that names the item and what is wrong with it.
    """
    conversation = Conversation()
    if instructions:
        conversation.messages.append(pb.Message(role="system", content=instructions))
    if isinstance(given, str):
        conversation.messages.append(pb.Message(role="user", content=given))
    else:
        for index, item in enumerate(given):
            conversation.add(item, f"input[{index}]")
    return conversation.messages


class Conversation:
    """Messages, made of items one after the other."""

    def __init__(self) -> None:
        self.messages: list[pb.Message] = []
        # The assistant's message that the next items of the same turn belong to.
        self._turn: pb.Message | None = None
        self._kinds: dict[str, Callable[[Mapping[str, Any], str], None]] = {
            "message": self._message,
            "function_call": self._call,
            "function_call_output": self._output,
            "reasoning": self._reasoning,
        }

    def add(self, item: Mapping[str, Any], field: str) -> None:
        """Add an item, which errors call `field`."""
        kind = item.get("type") or "message"
        if kind == "item_reference":
            raise invalid(f"{field}.type", "item_reference needs a stored item, and nothing is stored: send the item")
        if kind not in self._kinds:
            problem = f"must be one of {', '.join(self._kinds)}, got {str(kind)[:SHOWN_CHARACTERS]!r}"
            raise invalid(f"{field}.type", problem)
        self._kinds[str(kind)](item, field)

    def _message(self, item: Mapping[str, Any], field: str) -> None:
        role = item.get("role")
        if role not in ROLES:
            problem = f"must be one of {', '.join(ROLES)}, got {str(role)[:SHOWN_CHARACTERS]!r}"
            raise invalid(f"{field}.role", problem)
        texts = texts_of(item.get("content"), f"{field}.content")
        if role == "assistant":
            self._assistant(said=True).content = "".join(texts)
            return
        self._turn = None
        message = pb.Message(role=str(role))
        if len(texts) == 1:
            message.content = texts[0]
        else:
            message.parts.extend(pb.ContentPart(type="text", text=text) for text in texts)
        self.messages.append(message)

    def _call(self, item: Mapping[str, Any], field: str) -> None:
        id, name = _text(item, "call_id", field), _text(item, "name", field)
        arguments = _text(item, "arguments", field) or "{}"
        self._assistant(said=False).tool_calls.add(id=id, name=name, arguments=arguments)

    def _output(self, item: Mapping[str, Any], field: str) -> None:
        self._turn = None
        text = "".join(texts_of(item.get("output"), f"{field}.output"))
        self.messages.append(pb.Message(role="tool", content=text, tool_call_id=_text(item, "call_id", field)))

    def _reasoning(self, item: Mapping[str, Any], field: str) -> None:
        # A summary stands in for the reasoning where a server does not show it. Encrypted reasoning is another's.
        shown = "content" if item.get("content") else "summary"
        if text := "".join(texts_of(item.get(shown) or [], f"{field}.{shown}")):
            self._assistant(said=True).reasoning_content = text

    def _assistant(self, *, said: bool) -> pb.Message:
        """Return the message of the assistant's turn: a new one, if it `said` something and has said it before."""
        turn = self._turn
        if turn is None or (said and (turn.HasField("content") or turn.tool_calls)):
            turn = self._turn = pb.Message(role="assistant")
            self.messages.append(turn)
        return turn


def texts_of(content: object, field: str) -> list[str]:
    """Return the texts of a content: a text itself, or a list of parts.

    Raises:
        RequestError: INVALID_ARGUMENT, it is none, or has parts that are no texts.
    """
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise invalid(field, f"must be a text or a list of parts, got {type(content).__name__}")
    return [_part(part, f"{field}[{index}]") for index, part in enumerate(content)]


def _part(part: object, field: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or kind not in TEXTS:
        got = type(part).__name__ if kind is None else repr(str(kind)[:SHOWN_CHARACTERS])
        raise invalid(f"{field}.type", f"must be one of {', '.join(TEXTS)}, got {got}: the model takes texts only")
    return _text(part, TEXTS[str(kind)], field)


def _text(values: Mapping[str, Any], key: str, field: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise invalid(f"{field}.{key}", f"must be a text, got {type(value).__name__}")
    return value
