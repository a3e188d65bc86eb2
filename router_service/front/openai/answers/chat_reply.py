"""A chat's answers as one object."""

from collections import defaultdict

import msgspec
from msgspec import UNSET

from router_service.front.openai.answers.chat_objects import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    FunctionCall,
    ToolCallObject,
)
from router_service.front.openai.answers.chunks import ReplyHead
from router_service.front.openai.answers.finish import finish_reason
from router_service.front.openai.answers.gathered import GatheredAnswer
from router_service.front.openai.answers.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from router_service.front.openai.answers.routing import routing_of
from router_service.front.openai.answers.usage import UsageCount
from router_service.front.openai.requests.chat_body import ChatBody
from router_service.protocol import inference_pb2 as pb


class ChatReply:
    """Gathers responses, and makes the reply of them."""

    def __init__(self, body: ChatBody, head: ReplyHead, echoed: str = "") -> None:
        """`echoed` is what each answer begins with."""
        self._body = body
        self._head = head
        self._echoed = echoed
        self._names = TokenNames(bool(body.return_tokens_as_token_ids))
        self._usage = UsageCount()
        self._answers: defaultdict[int, GatheredAnswer] = defaultdict(GatheredAnswer)

    def add(self, prompt: int, response: pb.GenerateResponse) -> None:
        """Add a response."""
        self._usage.add(prompt, response)
        self._answers[response.index].add(response)

    @property
    def entries(self) -> int:
        """See `GatheredAnswer.entries`."""
        return sum(answer.entries for answer in self._answers.values())

    def reply(self) -> bytes:
        """Return the whole reply."""
        answers = [self._answers[index] for index in sorted(self._answers)]
        scored = next((answer.prompt_logprobs for answer in answers if answer.prompt_logprobs), [])
        prompt_ids = next((answer.prompt_token_ids for answer in answers if answer.prompt_token_ids), [])
        made = ChatCompletion(
            id=self._head.id,
            created=self._head.created,
            model=self._head.model,
            choices=[self._choice(index, answer) for index, answer in sorted(self._answers.items())],
            usage=self._usage.reply(),
            prompt_logprobs=prompt_logprobs(scored) if scored else UNSET,
            prompt_token_ids=prompt_ids if self._body.return_token_ids else UNSET,
        )
        return msgspec.json.encode(made)

    def _choice(self, index: int, answer: GatheredAnswer) -> ChatChoice:
        body = self._body
        return ChatChoice(
            index=index,
            message=self._message(answer),
            logprobs=chat_logprobs(answer.logprobs, self._names) if body.logprobs else None,
            finish_reason=finish_reason(answer.finish),
            stop_reason=answer.stop_reason,
            token_ids=answer.token_ids if body.return_token_ids else UNSET,
            routing=routing_of(answer.routing) if body.return_routing else UNSET,
        )

    def _message(self, answer: GatheredAnswer) -> AnswerMessage:
        text = self._echoed + answer.text
        calls = [
            ToolCallObject(call.id, FunctionCall(call.name, "".join(call.arguments)))
            for _, call in sorted(answer.calls.items())
        ]
        shown = answer.reasoning_text if self._body.include_reasoning is not False else None
        return AnswerMessage(
            None if calls and not text else text, reasoning_content=shown or UNSET, tool_calls=calls or UNSET
        )
