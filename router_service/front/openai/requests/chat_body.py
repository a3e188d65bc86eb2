"""The body of /v1/chat/completions."""

from router_service.front.openai.requests.fields import Count, GenerationBody, JsonObject


class ChatBody(GenerationBody, kw_only=True, frozen=True):
    """A conversation, and how to answer it. Messages and tools have OpenAI's form, see `chat_messages.py`."""

    messages: list[JsonObject]
    tools: list[JsonObject] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: JsonObject | None = None
    documents: list[JsonObject] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
