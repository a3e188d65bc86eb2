"""What a client has of an answer: how to ask for the rest of it, and what of the rest it has already."""

from typing import Any

from router_service.protocol.inference_pb2 import GenerateRequest, GenerateResponse

# Those of a response that a continuation returns again from the first position on.
REPEATED = ("routing", "prompt_logprobs")


class Delivered:
    """Counts what is delivered of the answer to `request`, over several calls.

    `finished` is set by the last response of the answer.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self.finished = False
        self._request = request
        self._tokens: list[int] = []
        self._characters = 0
        self._counts = dict.fromkeys(REPEATED, 0)
        self._repeated = dict.fromkeys(REPEATED, 0)

    @property
    def tokens(self) -> int:
        """How many tokens of the answer are delivered."""
        return len(self._tokens)

    def next_request(self) -> GenerateRequest:
        """Return the request for what is not delivered yet; its responses go through `fresh`."""
        self._repeated = dict(self._counts)
        request = GenerateRequest()
        request.CopyFrom(self._request)
        if self._tokens:
            request.continuation.token_ids.extend(self._tokens)
            request.continuation.text_characters = self._characters
        return request

    def fresh(self, response: GenerateResponse) -> GenerateResponse | None:
        """Return a response without what was delivered before; None if nothing is left of it."""
        dropped = [self._drop_repeated(field, getattr(response, field)) for field in REPEATED]
        self._tokens += response.token_ids
        self._characters += len(response.text)
        self._request.request_id = response.request_id
        self.finished = response.finish_reason != 0
        rest = response.token_ids or response.text or self.finished or response.routing or response.prompt_logprobs
        return response if rest or not any(dropped) else None

    def _drop_repeated(self, field: str, entries: Any) -> int:
        skipped = min(self._repeated[field], len(entries))
        self._repeated[field] -= skipped
        self._counts[field] += len(entries) - skipped
        if skipped:
            del entries[:skipped]
        return skipped
