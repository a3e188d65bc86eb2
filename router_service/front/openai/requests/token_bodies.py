"""The bodies of /tokenize and /detokenize, vLLM's."""

import msgspec

from router_service.front.openai.requests.fields import Count, JsonObject


class TokenizeBody(msgspec.Struct, kw_only=True, frozen=True):
    """A prompt, or a conversation with what its template takes. `add_special_tokens` is for prompts only."""

    model: str | None = None
    prompt: str | None = None
    messages: list[JsonObject] | None = None
    tools: list[JsonObject] | None = None
    documents: list[JsonObject] | None = None
    chat_template_kwargs: JsonObject | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    allow_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(msgspec.Struct, kw_only=True, frozen=True):
    """Token ids; special tokens are in the text unless `skip_special_tokens` is set."""

    tokens: list[Count]
    model: str | None = None
    skip_special_tokens: bool | None = None
