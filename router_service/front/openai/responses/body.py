"""The body of /v1/responses."""

import msgspec

from router_service.front.openai.requests.fields import Count, GenerationBody, JsonObject


class TextFormat(msgspec.Struct, kw_only=True, frozen=True):
    """What the text must be: `type` is text, json_object or json_schema."""

    type: str
    name: str | None = None
    description: str | None = None
    schema: JsonObject | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, kw_only=True, frozen=True):
    """How the text is to be."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(msgspec.Struct, kw_only=True, frozen=True):
    """How the model is to reason; `effort` is a variable of the chat template."""

    effort: str | None = None
    summary: str | None = None


class ResponsesBody(GenerationBody, kw_only=True, frozen=True):
    """A text or a list of items, and how to answer them; see `items.py`."""

    input: str | list[JsonObject]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    top_logprobs: Count | None = None
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    truncation: str | None = None
    chat_template_kwargs: JsonObject | None = None
    # Refused: they need answers that a server keeps.
    previous_response_id: str | None = None
    conversation: str | JsonObject | None = None
    background: bool | None = None
    prompt: JsonObject | None = None
    # Read by nobody here, and sent by ordinary clients.
    max_tool_calls: Count | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
