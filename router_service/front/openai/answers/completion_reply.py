"""Completions as one object."""

from collections import defaultdict

import msgspec
from msgspec import UNSET

from router_service.front.openai.answers.chunks import ReplyHead
from router_service.front.openai.answers.completion_objects import Completion, CompletionChoice
from router_service.front.openai.answers.completion_pieces import CompletionPieces
from router_service.front.openai.answers.finish import finish_reason
from router_service.front.openai.answers.gathered import GatheredAnswer
from router_service.front.openai.answers.logprobs import prompt_logprobs
from router_service.front.openai.answers.routing import routing_of
from router_service.front.openai.answers.usage import UsageCount
from router_service.front.openai.requests.completion_body import CompletionBody
from router_service.protocol import inference_pb2 as pb

Place = tuple[int, int]


class CompletionReply:
    """Gathers responses, and makes the reply of them."""

    def __init__(self, body: CompletionBody, head: ReplyHead) -> None:
        self._body = body
        self._head = head
        self._pieces = CompletionPieces(body)
        self._usage = UsageCount()
        # By prompt and answer.
        self._answers: defaultdict[Place, GatheredAnswer] = defaultdict(GatheredAnswer)

    def add(self, prompt: int, response: pb.GenerateResponse) -> None:
        """Add a response."""
        self._usage.add(prompt, response)
        self._answers[prompt, response.index].add(response)

    @property
    def entries(self) -> int:
        """See `GatheredAnswer.entries`; each answer of a prompt repeats the prompt's."""
        return (self._body.n or 1) * sum(answer.entries for answer in self._answers.values())

    def reply(self) -> bytes:
        """Return the whole reply."""
        made = Completion(
            id=self._head.id,
            created=self._head.created,
            model=self._head.model,
            choices=[self._choice(place, answer) for place, answer in sorted(self._answers.items())],
            usage=self._usage.reply(self._pieces.dropped),
        )
        return msgspec.json.encode(made)

    def _choice(self, place: Place, answer: GatheredAnswer) -> CompletionChoice:
        body, pieces = self._body, self._pieces
        first = self._answers[place[0], 0]  # the prompt comes with its first answer
        echoed = first.prompt_text if body.echo else ""
        return CompletionChoice(
            index=pieces.index(*place),
            text=echoed + ("" if pieces.dropped else answer.text),
            logprobs=pieces.logprobs(pieces.offsets(), answer.logprobs, first.prompt_logprobs),
            finish_reason="length" if pieces.dropped else finish_reason(answer.finish),
            stop_reason=None if pieces.dropped else answer.stop_reason,
            prompt_logprobs=UNSET if body.prompt_logprobs is None else prompt_logprobs(first.prompt_logprobs),
            prompt_token_ids=first.prompt_token_ids if body.return_token_ids else UNSET,
            token_ids=answer.token_ids if body.return_token_ids else UNSET,
            routing=routing_of(answer.routing) if body.return_routing else UNSET,
        )
