"""A body of /v1/responses as a request of the gRPC API."""

import json
from collections.abc import Mapping
from typing import Any

from router_service.front.errors import invalid
from router_service.front.openai.requests.chat import CHAT_NAMES, tool_choice_of
from router_service.front.openai.requests.request import request_of
from router_service.front.openai.requests.structured import schema_text, structured_names
from router_service.front.openai.responses.body import ResponsesBody, TextFormat
from router_service.front.openai.responses.items import messages_of
from router_service.protocol import inference_pb2 as pb

LOGPROBS = "message.output_text.logprobs"
# What gRPC's fields are called here, beside a chat's.
NAMES = {
    "chat": "input",
    "chat.messages": "input",
    "sampling.max_tokens": "max_output_tokens",
    "sampling.logprobs": "top_logprobs",
    "sampling.json_object": "text.format",
    "sampling.json_schema": "text.format.schema",
}
FORMATS = ("text", "json_object", "json_schema")
# What a request may not ask for, and what to do instead.
STATELESS = {
    "previous_response_id": "responses are not stored here: send the earlier items in input",
    "conversation": "conversations are not stored here: send the earlier items in input",
    "background": "nothing is answered in the background here: leave it out, and use stream",
    "prompt": "prompts are not stored here: send its text in instructions and input",
}
# What a response has no place for.
UNANSWERED = ("echo", "prompt_logprobs", "return_routing", "return_token_ids")


def responses_request(body: ResponsesBody) -> pb.GenerateRequest:
    """Return the request.

    Raises:
        RequestError: INVALID_ARGUMENT, a field has not OpenAI's form, or asks for what this server does not do.
    """
    check_supported(body)
    made = request_of(body)
    made.chat.CopyFrom(_chat_in(body))
    if body.max_output_tokens is not None:
        made.sampling.max_tokens = body.max_output_tokens
    if LOGPROBS in (body.include or ()) or body.top_logprobs:
        made.sampling.logprobs = body.top_logprobs or 0
    if body.text is not None and body.text.format is not None:
        _set_format(made.sampling, body.text.format)
    return made


def responses_names(body: ResponsesBody) -> dict[str, str]:
    """Return what gRPC's fields are called in this body."""
    names = CHAT_NAMES | NAMES | structured_names(body)
    if body.max_output_tokens is None and body.max_tokens is not None:
        names["sampling.max_tokens"] = "max_tokens"
    return names


def check_supported(body: ResponsesBody) -> None:
    """Refuse what needs a server that keeps answers, and what a response has no place for.

    Raises:
        RequestError: INVALID_ARGUMENT that names the field and says what to do.
    """
    for name, problem in STATELESS.items():
        if getattr(body, name):
            raise invalid(name, problem)
    for name in UNANSWERED:
        if (value := getattr(body, name)) is not None and value is not False:
            raise invalid(name, "has no place in a response: leave it out, or use /v1/chat/completions")
    if body.n not in (None, 1):
        raise invalid("n", f"a response is one answer, got {body.n}: send several requests")
    if body.truncation not in (None, "disabled"):
        raise invalid("truncation", f"must be disabled, got {body.truncation[:64]!r}: leave older items out of input")


def _chat_in(body: ResponsesBody) -> pb.Chat:
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ())]
    chat = pb.Chat(messages=messages_of(body.input, body.instructions), tools=tools)
    if (choice := tool_choice_of(body.tool_choice)) is not None:
        chat.tool_choice.CopyFrom(choice)
    if body.parallel_tool_calls is not None:
        chat.parallel_tool_calls = body.parallel_tool_calls
    effort = body.reasoning.effort if body.reasoning is not None else None
    variables = ({"reasoning_effort": effort} if effort else {}) | (body.chat_template_kwargs or {})
    if variables:
        chat.template_kwargs = json.dumps(variables, ensure_ascii=False)
    return chat


def _tool(tool: Mapping[str, Any], field: str) -> str:
    """Return a flat tool in the form of chats, as JSON."""
    if tool.get("type") != "function":
        kind = str(tool.get("type"))[:64]
        raise invalid(f"{field}.type", f"must be function, got {kind!r}: this server runs no tools, its clients do")
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise invalid(f"{field}.name", "is required")
    function = {
        key: value for key in ("name", "description", "parameters", "strict") if (value := tool.get(key)) is not None
    }
    return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


def _set_format(sampling: pb.Sampling, asked: TextFormat) -> None:
    if asked.type not in FORMATS:
        raise invalid("text.format.type", f"must be one of {', '.join(FORMATS)}, got {asked.type[:64]!r}")
    if asked.type != "text" and sampling.WhichOneof("structured"):
        raise invalid("text.format", "an answer has one form: leave text.format or the other one out")
    if asked.type == "json_object":
        sampling.json_object = True
    elif asked.type == "json_schema":
        if asked.schema is None:
            raise invalid("text.format.schema", "is required for the type json_schema")
        sampling.json_schema = schema_text(asked.schema)
