"""What completions have in common, streamed or not: the numbers, the prompts and the log-probabilities of choices."""

from collections.abc import Sequence

from router_service.front.openai.answers.logprobs import CompletionLogprobs, CompletionOffsets, TokenNames
from router_service.front.openai.requests.completion import drops_answer
from router_service.front.openai.requests.completion_body import CompletionBody
from router_service.protocol import inference_pb2 as pb


class CompletionPieces:
    """Makes parts of choices. `dropped` is set where only the prompt is returned."""

    def __init__(self, body: CompletionBody) -> None:
        self.dropped = drops_answer(body)
        self._body = body
        self._names = TokenNames(bool(body.return_tokens_as_token_ids))

    def index(self, prompt: int, answer: int) -> int:
        """Return the number of a choice: those of the first prompt come first."""
        return prompt * (self._body.n or 1) + answer

    def offsets(self) -> CompletionOffsets:
        """Return what makes the log-probabilities of one choice."""
        return CompletionOffsets(self._names, self._body.logprobs or 0)

    def logprobs(
        self, offsets: CompletionOffsets, tokens: Sequence[pb.TokenLogprob], prompt: Sequence[pb.TokenLogprob]
    ) -> CompletionLogprobs | None:
        """Return those of the next tokens, behind the prompt's where that is echoed."""
        if self._body.logprobs is None:
            return None
        return offsets.of(() if self.dropped else tokens, prompt if self._body.echo else ())
