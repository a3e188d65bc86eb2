"""A body of /v1/chat/completions as a request of the gRPC API."""

import json
from collections.abc import Mapping
from typing import Any

from router_service.front.errors import RequestError, invalid
from router_service.front.openai.requests.chat_body import ChatBody
from router_service.front.openai.requests.fields import JsonObject
from router_service.front.openai.requests.request import NAMES, request_of
from router_service.front.openai.requests.structured import structured_names
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.chat_messages import chat_of

# What gRPC's fields are called here.
CHAT_NAMES = NAMES | {
    "chat": "messages",
    "sampling.logprobs": "top_logprobs",
    "chat.messages": "messages",
    "chat.template_kwargs": "chat_template_kwargs",
    "chat.tools": "tools",
    "chat.tool_choice": "tool_choice",
    "chat.parallel_tool_calls": "parallel_tool_calls",
    "chat.documents": "documents",
    "chat.add_generation_prompt": "add_generation_prompt",
    "chat.continue_final_message": "continue_final_message",
}
MODES = {"auto": pb.ToolChoice.AUTO, "none": pb.ToolChoice.NONE, "required": pb.ToolChoice.REQUIRED}


def chat_request(body: ChatBody) -> pb.GenerateRequest:
    """Return the request.

    Raises:
        RequestError: INVALID_ARGUMENT, a field has not OpenAI's form.
    """
    made = request_of(body)
    made.chat.CopyFrom(chat_in(body))
    if body.max_completion_tokens is not None:
        made.sampling.max_tokens = body.max_completion_tokens
    if body.logprobs:
        made.sampling.logprobs = body.top_logprobs or 0
    elif body.top_logprobs:
        raise invalid("top_logprobs", "comes with logprobs: set logprobs to true, or leave it out")
    return made


def chat_names(body: ChatBody) -> dict[str, str]:
    """Return what gRPC's fields are called in this body."""
    names = CHAT_NAMES | structured_names(body)
    if body.max_completion_tokens is not None:
        names["sampling.max_tokens"] = "max_completion_tokens"
    return names


def chat_in(body: ChatBody) -> pb.Chat:
    """Return the conversation with its tools and the template's variables.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if body.chat_template is not None:
        raise invalid("chat_template", "is the server's, see front.chat_template: leave it out")
    chat = chat_of_messages(body.messages, body.tools or ())
    chat.documents.extend(json.dumps(document, ensure_ascii=False) for document in body.documents or ())
    if (choice := tool_choice_of(body.tool_choice)) is not None:
        chat.tool_choice.CopyFrom(choice)
    for name in ("parallel_tool_calls", "add_generation_prompt", "continue_final_message"):
        if (value := getattr(body, name)) is not None:
            setattr(chat, name, value)
    effort: JsonObject = {} if body.reasoning_effort is None else {"reasoning_effort": body.reasoning_effort}
    if variables := effort | (body.chat_template_kwargs or {}):
        chat.template_kwargs = json.dumps(variables, ensure_ascii=False)
    return chat


def chat_of_messages(messages: Any, tools: Any = ()) -> pb.Chat:
    """Return messages and tools in OpenAI's form as a chat.

    Raises:
        RequestError: INVALID_ARGUMENT, they have not that form.
    """
    try:
        return chat_of(messages, tools)
    except ValueError as error:
        raise _as_request_error(error) from error


def tool_choice_of(choice: str | Mapping[str, Any] | None) -> pb.ToolChoice | None:
    """Return OpenAI's `tool_choice`: a word, or the function that must be called.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in MODES:
            raise invalid("tool_choice", f"must be one of {', '.join(MODES)} or a function, got {choice[:64]!r}")
        return pb.ToolChoice(mode=MODES[choice])
    # The Responses API has the name beside the type.
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
    if choice.get("type") != "function" or not isinstance(name, str) or not name:
        raise invalid("tool_choice", 'must be like {"type": "function", "function": {"name": "..."}}')
    return pb.ToolChoice(mode=pb.ToolChoice.NAMED, name=name)


def _as_request_error(error: ValueError) -> RequestError:
    field, colon, problem = str(error).partition(": ")
    return invalid(field, problem) if colon else invalid("messages", field)
