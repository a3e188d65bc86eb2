"""Tokens of a request in OpenAI's form."""

from collections import defaultdict

import msgspec

from router_service.protocol import inference_pb2 as pb


class PromptDetails(msgspec.Struct, frozen=True):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct, frozen=True):
    """Of the answer's tokens."""

    reasoning_tokens: int


class UsageReply(msgspec.Struct, frozen=True):
    """Tokens of a request, all its answers together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class UsageCount:
    """Adds up what a request's answers report; each prompt counts once, however many answers it has."""

    def __init__(self) -> None:
        # Of each prompt, by its number.
        self._prompt: dict[int, int] = {}
        self._cached: defaultdict[int, int] = defaultdict(int)
        self._generated = self._reasoning = 0

    def add(self, prompt: int, response: pb.GenerateResponse) -> None:
        """Count a response to prompt number `prompt`; while an answer streams its tokens count as they come."""
        self._generated += len(response.token_ids)
        if response.prompt_token_ids:
            self._prompt[prompt] = len(response.prompt_token_ids)
        if response.HasField("usage"):
            usage = response.usage
            self._prompt[prompt] = usage.prompt_tokens
            self._cached[prompt] = max(self._cached[prompt], usage.cached_prompt_tokens)
            self._reasoning += usage.reasoning_tokens

    def reply(self, drops_answer: bool = False) -> UsageReply:
        """Return the sums; without the answer's tokens where that is not returned."""
        prompt, generated = sum(self._prompt.values()), 0 if drops_answer else self._generated
        return UsageReply(
            prompt,
            generated,
            prompt + generated,
            PromptDetails(sum(self._cached.values())),
            CompletionDetails(self._reasoning),
        )
