"""The objects of /v1/responses."""

from typing import Any

import msgspec

from router_service.front.openai.answers.logprobs import ChatTokenLogprob
from router_service.front.openai.answers.usage import UsageReply


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """Text that the model says. `annotations` is always empty."""

    text: str
    logprobs: list[ChatTokenLogprob] = []
    annotations: list[Any] = []


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    """Text of its reasoning."""

    text: str


class MessageItem(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """A message. `status` is in_progress, completed or incomplete, here and below."""

    id: str
    status: str
    content: list[OutputText] = []
    role: str = "assistant"


class ReasoningItem(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """Reasoning, which is shown as it is: `summary` is always empty."""

    id: str
    status: str
    content: list[ReasoningText] = []
    summary: list[Any] = []


class FunctionCallItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call"):
    """A function to call; `arguments` is JSON."""

    id: str
    status: str
    call_id: str
    name: str
    arguments: str = ""


Item = MessageItem | ReasoningItem | FunctionCallItem


class InputDetails(msgspec.Struct, frozen=True):
    """Of the input's tokens."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    """Of the output's tokens."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseProblem(msgspec.Struct, frozen=True):
    """Why a response failed."""

    code: str
    message: str


class Incomplete(msgspec.Struct, frozen=True):
    """Why a response ended before its end."""

    reason: str


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """A response. `status` is in_progress, completed, incomplete or failed; what was asked for is repeated in it."""

    id: str
    object: str = "response"
    created_at: int
    completed_at: int | None = None
    status: str
    model: str
    output: list[Item]
    error: ResponseProblem | None = None
    incomplete_details: Incomplete | None = None
    usage: ResponseUsage | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, Any]
    parallel_tool_calls: bool
    reasoning: dict[str, Any]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    user: str | None
    # Nothing is stored.
    background: bool = False
    previous_response_id: str | None = None
    service_tier: str = "default"
    store: bool = False
    truncation: str = "disabled"


class ResponseEvent(msgspec.Struct, frozen=True):
    """An event of a stream; others have, instead of the response, what of it is new."""

    type: str
    sequence_number: int
    response: ResponseObject


def usage_of(usage: UsageReply) -> ResponseUsage:
    """Return a request's tokens in the words of this API."""
    return ResponseUsage(
        usage.prompt_tokens,
        InputDetails(usage.prompt_tokens_details.cached_tokens),
        usage.completion_tokens,
        OutputDetails(usage.completion_tokens_details.reasoning_tokens),
        usage.total_tokens,
    )
