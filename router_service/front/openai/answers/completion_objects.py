"""The objects of /v1/completions. What is not asked for is left out."""

import msgspec
from msgspec import UNSET, UnsetType

from router_service.front.openai.answers.logprobs import CompletionLogprobs, PromptLogprobs
from router_service.front.openai.answers.routing import PositionRouting
from router_service.front.openai.answers.usage import UsageReply


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One of the answers, or its next piece. Answers are numbered prompt by prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET
    routing: list[PositionRouting] | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The response, or an event of the stream. With `include_usage` each event has `usage`, the last no choices."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageReply | UnsetType | None = UNSET
