"""The objects of /v1/chat/completions. What is not asked for is left out."""

import msgspec
from msgspec import UNSET, UnsetType

from router_service.front.openai.answers.logprobs import ChatLogprobs, PromptLogprobs
from router_service.front.openai.answers.routing import PositionRouting
from router_service.front.openai.answers.usage import UsageReply


class FunctionCall(msgspec.Struct, frozen=True):
    """The function to call; `arguments` is JSON."""

    name: str
    arguments: str


class ToolCallObject(msgspec.Struct, frozen=True):
    """A tool call."""

    id: str
    function: FunctionCall
    type: str = "function"


class AnswerMessage(msgspec.Struct, frozen=True):
    """What the model answers: `content` is null where it only calls tools."""

    content: str | None
    role: str = "assistant"
    refusal: str | None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallObject] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET
    routing: list[PositionRouting] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The response that is not streamed."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageReply
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a function call is new; `name` comes with its first piece."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct, frozen=True):
    """What of a tool call is new; `id` and `type` come with its first piece."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True):
    """What of an answer is new."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    """The next piece of one of the answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET
    routing: list[PositionRouting] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the stream. With `include_usage` each has `usage`, and the last has no choices."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: UsageReply | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
