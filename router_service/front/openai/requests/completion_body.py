"""The body of /v1/completions."""

from router_service.front.openai.requests.fields import Count, GenerationBody


class CompletionBody(GenerationBody, kw_only=True, frozen=True):
    """What to continue: a text, token ids, or a list of either."""

    prompt: str | list[int | str | list[int]]
    logprobs: Count | None = None
    suffix: str | None = None
    best_of: Count | None = None
