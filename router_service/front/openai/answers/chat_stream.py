"""A chat's answers as events."""

from msgspec import UNSET, UnsetType

from router_service.front.openai.answers.chat_objects import ChatChunkChoice, ChatDelta, FunctionDelta, ToolCallDelta
from router_service.front.openai.answers.chunks import Chunks, ReplyHead
from router_service.front.openai.answers.finish import finish_reason, stop_reason
from router_service.front.openai.answers.logprobs import ChatLogprobs, TokenNames, chat_logprobs
from router_service.front.openai.answers.routing import routing_of
from router_service.front.openai.answers.usage import UsageCount
from router_service.front.openai.requests.chat_body import ChatBody
from router_service.protocol import inference_pb2 as pb


class ChatStream:
    """Encodes responses; the first event of each answer has its role."""

    def __init__(self, body: ChatBody, head: ReplyHead, echoed: str = "") -> None:
        """`echoed` is what each answer begins with."""
        self._body = body
        self._chunks = Chunks("chat.completion.chunk", head, body)
        self._names = TokenNames(bool(body.return_tokens_as_token_ids))
        self._usage = UsageCount()
        self._begun: set[int] = set()
        self._echoed = echoed

    def encode(self, prompt: int, response: pb.GenerateResponse) -> bytes:
        """Return the events of a response, b"" if it says nothing."""
        self._usage.add(prompt, response)
        made, index = b"", response.index
        if index not in self._begun and (response.token_ids or response.finish_reason):
            self._begun.add(index)
            made = self._chunks.event(ChatChunkChoice(index, ChatDelta("assistant", self._echoed)), self._usage)
        choice = self._choice(response)
        return made if choice is None else made + self._chunks.event(choice, self._usage)

    def end(self) -> bytes:
        """Return the last events."""
        return self._chunks.end(self._usage)

    def _choice(self, response: pb.GenerateResponse) -> ChatChunkChoice | None:
        body = self._body
        reasoning = response.reasoning if body.include_reasoning is not False else ""
        calls = [_call_delta(call) for call in response.tool_calls]
        logprobs = self._logprobs(response)
        ended = response.finish_reason != pb.FINISH_REASON_UNSPECIFIED
        if not (response.text or reasoning or calls or logprobs or ended or response.routing or body.return_token_ids):
            return None
        return ChatChunkChoice(
            response.index,
            ChatDelta(UNSET, response.text or UNSET, reasoning or UNSET, calls or UNSET),
            logprobs,
            finish_reason(response.finish_reason),
            stop_reason(response) if ended else UNSET,
            list(response.token_ids) if body.return_token_ids else UNSET,
            routing_of(response.routing) if response.routing else UNSET,
        )

    def _logprobs(self, response: pb.GenerateResponse) -> ChatLogprobs | None:
        return chat_logprobs(response.logprobs, self._names) if response.logprobs else None


def _call_delta(call: pb.ToolCallDelta) -> ToolCallDelta:
    kind: str | UnsetType = "function" if call.id else UNSET
    return ToolCallDelta(call.index, FunctionDelta(call.name or None, call.arguments), call.id or UNSET, kind)
