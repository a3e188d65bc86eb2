"""What a client has of an answer: how to ask for the rest of it, and what of the rest it has already."""

from typing import Any

from router_service.protocol.inference_pb2 import GenerateRequest, GenerateResponse

# Those of a response that a call which goes on may return again, from the first position on.
REPEATED = ("routing", "prompt_logprobs", "prompt_token_ids", "prompt_text")


class Delivered:
    """Counts what is delivered of the answers to `request`, over several calls if there is one answer.

    `finished` is set by the last response of the last answer.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._tokens: list[int] = []
        self._characters = self._reasoning = 0
        # Of each tool call that has begun, the characters of its arguments.
        self._arguments: list[int] = []
        self._counts = dict.fromkeys(REPEATED, 0)
        self._repeated = dict.fromkeys(REPEATED, 0)
        self._open = max(1, request.n)

    @property
    def finished(self) -> bool:
        """Whether all answers have ended."""
        return not self._open

    @property
    def tokens(self) -> int:
        """How many tokens of the answers are delivered."""
        return len(self._tokens)

    def next_request(self) -> GenerateRequest:
        """Return the request for what is not delivered yet; its responses go through `fresh`."""
        self._repeated = dict(self._counts)
        request = GenerateRequest()
        request.CopyFrom(self._request)
        if self._tokens:
            before = request.continuation
            before.token_ids.extend(self._tokens)
            before.text_characters, before.reasoning_characters = self._characters, self._reasoning
            before.argument_characters.extend(self._arguments)
        return request

    def fresh(self, response: GenerateResponse) -> GenerateResponse | None:
        """Return a response without what was delivered before; None if nothing is left of it."""
        dropped = [self._drop_repeated(field, response) for field in REPEATED]
        self._tokens += response.token_ids
        self._characters += len(response.text)
        self._reasoning += len(response.reasoning)
        self._count_calls(response)
        self._request.request_id = response.request_id
        self._open -= response.finish_reason != 0
        return response if any(map(bool, self._contents(response))) or not any(dropped) else None

    @staticmethod
    def _contents(response: GenerateResponse) -> tuple[Any, ...]:
        parts = (response.token_ids, response.text, response.reasoning, response.tool_calls, response.finish_reason)
        return (*parts, *(getattr(response, field) for field in REPEATED))

    def _count_calls(self, response: GenerateResponse) -> None:
        for call in response.tool_calls:
            self._arguments += [0] * (call.index + 1 - len(self._arguments))
            self._arguments[call.index] += len(call.arguments)

    def _drop_repeated(self, field: str, response: GenerateResponse) -> int:
        entries: Any = getattr(response, field)
        skipped = min(self._repeated[field], len(entries))
        self._repeated[field] -= skipped
        self._counts[field] += len(entries) - skipped
        if skipped and isinstance(entries, str):
            setattr(response, field, entries[skipped:])
        elif skipped:
            del entries[:skipped]
        return skipped
