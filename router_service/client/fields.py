"""What a generation may be asked for beside its input, as keyword arguments."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from router_service.protocol import inference_pb2 as pb
from router_service.protocol.chat_messages import chat_of

FALLBACKS = {
    "": pb.FALLBACK_UNSPECIFIED,
    "wait": pb.WAIT,
    "drop": pb.DROP,
    "next_best": pb.NEXT_BEST,
    "fail": pb.FAIL,
}
CHOICES = {"auto": pb.ToolChoice.AUTO, "none": pb.ToolChoice.NONE, "required": pb.ToolChoice.REQUIRED}


class SamplingFields(TypedDict, total=False):
    """The fields of `Sampling`; inference.proto has their bounds and defaults.

    At most one of `json_object`, `json_schema` (a text, or its object), `regex`, `choice` and `grammar` is given.
    """

    max_tokens: int
    temperature: float
    top_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    top_k: int
    seed: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    logprobs: int
    min_tokens: int
    logit_bias: Mapping[int, float]
    prompt_logprobs: int
    include_stop_text: bool
    skip_special_tokens: bool
    json_object: bool
    json_schema: str | Mapping[str, Any]
    regex: str
    choice: Sequence[str]
    grammar: str


class ChatFields(TypedDict, total=False):
    """What a conversation has beside its messages: see `Chat` in inference.proto.

    `tools` and `documents` are objects in OpenAI's form, `template_kwargs` are variables of the chat template.
    `tool_choice` is auto, none, required, a tool's name, or OpenAI's object with one.
    """

    tools: Iterable[Mapping[str, Any]]
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    documents: Iterable[Mapping[str, Any]]
    template_kwargs: Mapping[str, Any] | None
    add_generation_prompt: bool
    continue_final_message: bool


class RequestFields(ChatFields, SamplingFields, total=False):
    """The other fields of `GenerateRequest`; `fallback` is wait, drop, next_best or fail, else the server's default."""

    request_id: str
    return_routing: bool
    return_scores: bool
    priority: int
    cache_salt: str
    fallback: str
    n: int
    echo: bool
    truncate_prompt_tokens: int
    add_special_tokens: bool
    allow_special_tokens: bool
    raw_output: bool


def request_of(
    prompt: str | None,
    tokens: Iterable[int] | None,
    messages: Iterable[Mapping[str, Any]] | None,
    fields: RequestFields,
) -> pb.GenerateRequest:
    """Return the request for an answer to one of `prompt`, `tokens`, `messages`.

    Raises:
        ValueError: not exactly one input was given, a field belongs to another input, or a value has a wrong form.
    """
    given: dict[str, Any] = dict(fields)
    request = pb.GenerateRequest(
        sampling=_sampling({name: given.pop(name) for name in SamplingFields.__annotations__ if name in given})
    )
    chat = {name: given.pop(name) for name in ChatFields.__annotations__ if name in given}
    set_input(request, prompt, tokens, messages, chat)
    request.fallback = fallback_named(given.pop("fallback", ""))
    for name, value in given.items():
        if name not in RequestFields.__annotations__:
            raise ValueError(f"{name}: there is no such field")
        setattr(request, name, value)
    return request


def set_input(
    request: pb.GenerateRequest | pb.TokenizeRequest,
    prompt: str | None,
    tokens: Iterable[int] | None,
    messages: Iterable[Mapping[str, Any]] | None,
    chat: Mapping[str, Any],
) -> None:
    """Set the request's input; `chat` are the `ChatFields` of `messages`.

    Raises:
        ValueError: none or several are given, or a field of `chat` without messages or with a wrong value.
    """
    if sum(value is not None for value in (prompt, tokens, messages)) != 1:
        raise ValueError("give exactly one of prompt, tokens, messages")
    if messages is not None:
        request.chat.CopyFrom(_chat(messages, chat))
        return
    if used := [name for name, value in chat.items() if value]:
        raise ValueError(f"{used[0]}: only a conversation has it, give messages")
    if prompt is not None:
        request.prompt = prompt
    elif isinstance(request, pb.GenerateRequest):
        request.tokens.CopyFrom(pb.TokenIds(ids=tokens))


def fallback_named(name: str) -> pb.Fallback:
    """Return the policy of this name, that of the server for "".

    Raises:
        ValueError: there is no such policy.
    """
    if name not in FALLBACKS:
        raise ValueError(f"fallback must be one of {', '.join(filter(None, FALLBACKS))}, or empty, not {name!r}")
    return FALLBACKS[name]


def tool_choice_of(choice: str | Mapping[str, Any]) -> pb.ToolChoice:
    """Return OpenAI's `tool_choice`: a word, a tool's name, or the object that has one.

    Raises:
        ValueError: it has not this form.
    """
    if isinstance(choice, str):
        return pb.ToolChoice(mode=CHOICES[choice]) if choice in CHOICES else _named(choice)
    function = choice.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError('tool_choice: must be like {"type": "function", "function": {"name": "..."}}')
    return _named(function["name"])


def _named(name: str) -> pb.ToolChoice:
    return pb.ToolChoice(mode=pb.ToolChoice.NAMED, name=name)


def _chat(messages: Iterable[Mapping[str, Any]], fields: Mapping[str, Any]) -> pb.Chat:
    chat = chat_of(messages, fields.get("tools") or ())
    if (choice := fields.get("tool_choice")) is not None:
        chat.tool_choice.CopyFrom(tool_choice_of(choice))
    chat.documents.extend(_json(document) for document in fields.get("documents") or ())
    if kwargs := fields.get("template_kwargs"):
        chat.template_kwargs = _json(kwargs)
    for name in ("parallel_tool_calls", "add_generation_prompt", "continue_final_message"):
        if (value := fields.get(name)) is not None:
            setattr(chat, name, value)
    return chat


def _sampling(fields: dict[str, Any]) -> pb.Sampling:
    if (schema := fields.get("json_schema")) is not None and not isinstance(schema, str):
        fields["json_schema"] = _json(schema)
    if (texts := fields.pop("choice", None)) is not None:
        fields["choice"] = pb.Choices(texts=texts)
    structured = [name for name in ("json_object", "json_schema", "regex", "choice", "grammar") if name in fields]
    if len(structured) > 1:
        raise ValueError(f"give at most one of {', '.join(structured)}")
    return pb.Sampling(**fields)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
