"""Conversations of the API as chat templates take them: what transformers' `apply_chat_template` would be given.

Published templates differ in what they take. `Traits` says what a template's own one does; `templates/probe.py` finds
it out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from router_service.protocol import inference_pb2 as pb
from router_service.text.chats.template_fields import (
    ChatFieldError,
    documents_of,
    object_of,
    template_kwargs_of,
    tools_of,
)

ROLES = ("system", "developer", "user", "assistant", "tool")
# Each message is at least a token of the prompt, and some templates look at all others for each.
MAX_MESSAGES = 1 << 14
NO_CONTENT: Mapping[str, Mapping[str, Any]] = {"missing": {}, "null": {"content": None}, "empty": {"content": ""}}


@dataclass(frozen=True, slots=True)
class Traits:
    """What a template takes.

    `text_roles` are those whose content it takes as text only, `part_roles` those as parts only; other content is
    given as it came. `arguments_text`: a call's arguments are the text of their JSON, not an object. `no_content` is
    what a message has that came without content: nothing at all (missing), None (null), or "" (empty).
    """

    text_roles: frozenset[str] = frozenset(ROLES)
    part_roles: frozenset[str] = frozenset()
    arguments_text: bool = False
    no_content: str = "missing"
    # Besides ROLES, those that the template names.
    more_roles: frozenset[str] = frozenset()
    developer: bool = True


@dataclass(frozen=True, slots=True)
class Conversation:
    """A template's variables. `messages`, `tools`, `documents` and `kwargs` are plain JSON."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False


def content_characters(messages: Iterable[pb.Message]) -> int:
    """Return the number of characters of the messages' content, without reasoning, which templates often leave out."""
    return sum(len(one.content) + sum(len(part.text) for part in one.parts) for one in messages)


def has_tools(chat: pb.Chat) -> bool:
    """Whether the template is told of tools."""
    return bool(chat.tools) and chat.tool_choice.mode != pb.ToolChoice.NONE


def conversation_of(
    chat: pb.Chat, traits: Traits, defaults: Mapping[str, Any] | None = None, reserved: Iterable[str] = ()
) -> Conversation:
    """Return what a template with `traits` is given; `defaults` are the server's variables.

    Raises:
        ChatFieldError: a field has not the form that it must have.
    """
    check_count(chat.messages)
    _check_roles(chat.messages, traits)
    tools = tools_of(chat.tools)
    _check_choice(chat.tool_choice, tools)
    messages = [_message(one, f"chat.messages[{index}]", traits) for index, one in enumerate(chat.messages)]
    kwargs = dict(defaults or {}) | template_kwargs_of(chat.template_kwargs, reserved=reserved)
    return Conversation(
        messages=messages,
        tools=tools if has_tools(chat) else None,
        documents=documents_of(chat.documents) or None,
        kwargs=kwargs,
        add_generation_prompt=_adds_prompt(chat),
        continue_final_message=chat.continue_final_message,
    )


def check_count(messages: Sequence[pb.Message]) -> None:
    """Check the number of messages, in no time.

    Raises:
        ChatFieldError: none, or too many.
    """
    if not messages:
        raise ChatFieldError("chat.messages", "at least one message is required")
    if len(messages) > MAX_MESSAGES:
        problem = f"at most {MAX_MESSAGES} messages, got {len(messages)}: leave the oldest out, or join some"
        raise ChatFieldError("chat.messages", problem)


def _check_roles(messages: Sequence[pb.Message], traits: Traits) -> None:
    for index, message in enumerate(messages):
        if message.role not in ROLES and message.role not in traits.more_roles:
            problem = f"must be one of {', '.join(ROLES)}, got {message.role!r}"
            raise ChatFieldError(f"chat.messages[{index}].role", problem)


def _check_choice(choice: pb.ToolChoice, tools: Sequence[Mapping[str, Any]]) -> None:
    if choice.mode in (pb.ToolChoice.REQUIRED, pb.ToolChoice.NAMED) and not tools:
        raise ChatFieldError("chat.tool_choice", "needs tools; send some, or leave it out")
    names = [tool["function"]["name"] for tool in tools]
    if choice.mode == pb.ToolChoice.NAMED and choice.name not in names:
        raise ChatFieldError("chat.tool_choice.name", f"must be a tool of the request, got {choice.name!r}")


def _adds_prompt(chat: pb.Chat) -> bool:
    if not chat.continue_final_message:
        return chat.add_generation_prompt or not chat.HasField("add_generation_prompt")
    if chat.add_generation_prompt:
        problem = "excludes add_generation_prompt: the last message goes on, or a new one begins"
        raise ChatFieldError("chat.continue_final_message", problem)
    return False


def _message(message: pb.Message, where: str, traits: Traits) -> dict[str, Any]:
    role = message.role if message.role != "developer" or traits.developer else "system"
    made: dict[str, Any] = {"role": role} | _content(message, role, where, traits)
    for key in ("name", "tool_call_id"):
        if value := getattr(message, key):
            made[key] = value
    if message.tool_calls:
        if role != "assistant":
            raise ChatFieldError(f"{where}.tool_calls", f"only an assistant's message has them, not {role!r}")
        calls = enumerate(message.tool_calls)
        made["tool_calls"] = [_call(call, f"{where}.tool_calls[{index}]", traits) for index, call in calls]
    if message.HasField("reasoning_content"):
        # gpt-oss's template reads it by the other name; transformers gives both, in this order.
        made = {"thinking": message.reasoning_content, **made, "reasoning_content": message.reasoning_content}
    return made


def _content(message: pb.Message, role: str, where: str, traits: Traits) -> dict[str, Any]:
    if message.HasField("content"):
        if message.parts:
            raise ChatFieldError(f"{where}.parts", "excludes content; send one of both")
        text = [{"type": "text", "text": message.content}]
        return {"content": text if role in traits.part_roles else message.content}
    if message.parts:
        return {"content": _parts(message.parts, where, role in traits.text_roles)}
    if role != "assistant" or not message.tool_calls:
        # What clients of gRPC always could leave out: an unset text is an empty one.
        return {"content": ""}
    return dict(NO_CONTENT[traits.no_content])


def _parts(parts: Sequence[pb.ContentPart], where: str, joined: bool) -> str | list[dict[str, str]]:
    for index, part in enumerate(parts):
        if part.type not in ("text", ""):
            problem = f"must be text, which is all that the model takes, got {part.type!r}"
            raise ChatFieldError(f"{where}.parts[{index}].type", problem)
    if joined:
        return "\n".join(part.text for part in parts)
    return [{"type": "text", "text": part.text} for part in parts]


def _call(call: pb.ToolCall, where: str, traits: Traits) -> dict[str, Any]:
    if not call.name:
        raise ChatFieldError(f"{where}.name", "must not be empty")
    parsed = object_of(call.arguments or "{}", f"{where}.arguments")
    arguments = (call.arguments or "{}") if traits.arguments_text else parsed
    made: dict[str, Any] = {"id": call.id} if call.id else {}
    return made | {"type": "function", "function": {"name": call.name, "arguments": arguments}}
