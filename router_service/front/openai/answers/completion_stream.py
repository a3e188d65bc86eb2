"""Completions as events."""

from collections import defaultdict
from dataclasses import dataclass, field

from msgspec import UNSET

from router_service.front.openai.answers.chunks import Chunks, ReplyHead
from router_service.front.openai.answers.completion_objects import CompletionChoice
from router_service.front.openai.answers.completion_pieces import CompletionPieces
from router_service.front.openai.answers.finish import finish_reason, stop_reason
from router_service.front.openai.answers.logprobs import CompletionOffsets
from router_service.front.openai.answers.routing import routing_of
from router_service.front.openai.answers.usage import UsageCount
from router_service.front.openai.requests.completion_body import CompletionBody
from router_service.protocol import inference_pb2 as pb


@dataclass(slots=True)
class PromptPieces:
    """What has come of a prompt before its first token; each answer begins with it where it is echoed."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[pb.TokenLogprob] = field(default_factory=list)


class CompletionStream:
    """Encodes responses."""

    def __init__(self, body: CompletionBody, head: ReplyHead) -> None:
        self._body = body
        self._chunks = Chunks("text_completion", head, body)
        self._pieces = CompletionPieces(body)
        self._usage = UsageCount()
        self._prompts: defaultdict[int, PromptPieces] = defaultdict(PromptPieces)
        self._offsets: dict[int, CompletionOffsets] = {}
        self._begun: set[int] = set()

    def encode(self, prompt: int, response: pb.GenerateResponse) -> bytes:
        """Return the event of a response, b"" if it says nothing."""
        self._usage.add(prompt, response)
        before = self._prompts[prompt]
        before.text += response.prompt_text
        before.token_ids.extend(response.prompt_token_ids)
        before.logprobs.extend(response.prompt_logprobs)
        ended = response.finish_reason != pb.FINISH_REASON_UNSPECIFIED
        index = self._pieces.index(prompt, response.index)
        first = index not in self._begun and bool(response.token_ids or ended)
        told = response.text or response.logprobs or response.routing or self._body.return_token_ids
        if not (first or ended or told):
            return b""
        if first:
            self._begun.add(index)
        return self._chunks.event(self._choice(index, before if first else PromptPieces(), response), self._usage)

    def end(self) -> bytes:
        """Return the last events."""
        return self._chunks.end(self._usage, self._pieces.dropped)

    def _choice(self, index: int, before: PromptPieces, response: pb.GenerateResponse) -> CompletionChoice:
        body, pieces = self._body, self._pieces
        offsets = self._offsets.setdefault(index, pieces.offsets())
        finish = finish_reason(response.finish_reason)
        return CompletionChoice(
            index=index,
            text=(before.text if body.echo else "") + ("" if pieces.dropped else response.text),
            logprobs=pieces.logprobs(offsets, response.logprobs, before.logprobs),
            finish_reason="length" if pieces.dropped and finish else finish,
            stop_reason=None if pieces.dropped else stop_reason(response),
            prompt_token_ids=before.token_ids if body.return_token_ids and before.token_ids else UNSET,
            token_ids=list(response.token_ids) if body.return_token_ids else UNSET,
            routing=routing_of(response.routing) if response.routing else UNSET,
        )
