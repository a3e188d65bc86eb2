"""The fields that /v1/chat/completions and /v1/completions share, as OpenAI and vLLM name them; `null` is unset."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

MAX_UINT32 = (1 << 32) - 1
MAX_INT32 = (1 << 31) - 1

Count = Annotated[int, Meta(ge=0, le=MAX_UINT32)]
Signed = Annotated[int, Meta(ge=-MAX_INT32 - 1, le=MAX_INT32)]
JsonObject = dict[str, Any]


class StreamOptions(msgspec.Struct, kw_only=True, frozen=True):
    """What a stream tells of its usage."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchemaFormat(msgspec.Struct, kw_only=True, frozen=True):
    """The schema that an answer must follow."""

    name: str | None = None
    description: str | None = None
    schema: JsonObject | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, kw_only=True, frozen=True):
    """OpenAI's way to ask for structured output: `type` is text, json_object or json_schema."""

    type: str
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(msgspec.Struct, kw_only=True, frozen=True):
    """vLLM's way to ask for it: one of these."""

    json: str | JsonObject | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class GenerationBody(msgspec.Struct, kw_only=True, frozen=True):
    """What every generation may say."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    request_id: str | None = None
    n: Count | None = None
    max_tokens: Count | None = None
    min_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Signed | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Count] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    allow_special_tokens: bool | None = None
    logit_bias: dict[str, float] | None = None
    prompt_logprobs: Count | None = None
    echo: bool | None = None
    truncate_prompt_tokens: Signed | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | JsonObject | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    priority: Signed | None = None
    cache_salt: str | None = None
    fallback: str | None = None
    return_routing: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    # Read by nobody here, and sent by ordinary clients.
    user: str | None = None
    metadata: JsonObject | None = None
    store: bool | None = None
    service_tier: str | None = None
