"""Log-probabilities in the forms of chats, of completions, and of vLLM's `prompt_logprobs`."""

from collections.abc import Iterable, Sequence

import msgspec

from router_service.protocol import inference_pb2 as pb

# JSON has no infinity; OpenAI and vLLM send this for what is impossible.
IMPOSSIBLE = -9999.0


class ChatToken(msgspec.Struct, frozen=True):
    """One of the best tokens of a position; `bytes` are those of its text."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct, frozen=True):
    """A token of the answer, and the best ones of its position."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatToken]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of a chat's answer, all its tokens in order, those of reasoning and calls too."""

    content: list[ChatTokenLogprob]


class CompletionLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of a completion: lists with an entry for each token; nothing predicts a prompt's first."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class PromptToken(msgspec.Struct, frozen=True):
    """A token at a position of the prompt; `rank` is 1 for the best, null for one that is not among the best."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptToken] | None]


class TokenNames:
    """How tokens are called: by their texts, or with `return_tokens_as_token_ids` as token_id:ID."""

    def __init__(self, by_id: bool) -> None:
        self._by_id = by_id

    def of(self, token: pb.TokenLogprob) -> str:
        """Return the name of a token."""
        return f"token_id:{token.token_id}" if self._by_id else token.text


def chat_logprobs(tokens: Iterable[pb.TokenLogprob], names: TokenNames) -> ChatLogprobs:
    """Return the form of chats."""
    return ChatLogprobs([_chat_token(token, names) for token in tokens])


class CompletionOffsets:
    """Makes the form of completions for one answer's next tokens: their offsets go on where the last ended."""

    def __init__(self, names: TokenNames, top: int) -> None:
        self._names = names
        self._top = top
        self._offset = 0

    def of(self, tokens: Sequence[pb.TokenLogprob], prompt: Sequence[pb.TokenLogprob] = ()) -> CompletionLogprobs:
        """Return the next tokens, behind those of the prompt, whose first has no probability."""
        made = CompletionLogprobs([], [], [], [])
        for place, token in enumerate((*prompt, *tokens)):
            unknown = place == 0 and bool(prompt)
            made.text_offset.append(self._offset)
            made.token_logprobs.append(None if unknown else finite(token.logprob))
            made.tokens.append(self._names.of(token))
            made.top_logprobs.append(None if unknown else self._best(token))
            self._offset += len(token.text)
        return made

    def _best(self, token: pb.TokenLogprob) -> dict[str, float]:
        """The best tokens and the token itself; of two with the same text the better one counts."""
        best: dict[str, float] = {}
        for one in (*token.top[: self._top], token):
            best.setdefault(self._names.of(one), finite(one.logprob))
        return best


def prompt_logprobs(tokens: Sequence[pb.TokenLogprob]) -> PromptLogprobs:
    """Return vLLM's form: for each position the tokens by their ids, null for the first."""
    return [_prompt_position(token) if place else None for place, token in enumerate(tokens)]


def finite(logprob: float) -> float:
    """Return a log-probability that JSON can hold."""
    return max(logprob, IMPOSSIBLE)


def _chat_token(token: pb.TokenLogprob, names: TokenNames) -> ChatTokenLogprob:
    best = [ChatToken(names.of(one), finite(one.logprob), list(one.raw)) for one in token.top]
    return ChatTokenLogprob(names.of(token), finite(token.logprob), list(token.raw), best)


def _prompt_position(token: pb.TokenLogprob) -> dict[str, PromptToken]:
    made = {
        str(one.token_id): PromptToken(finite(one.logprob), rank, one.text)
        for rank, one in enumerate(token.top, start=1)
    }
    return {str(token.token_id): PromptToken(finite(token.logprob), None, token.text)} | made
