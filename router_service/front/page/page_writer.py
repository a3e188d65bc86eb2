"""Writes an answer's responses as the events of `generate.py`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from router_service.front.http.server_sent_events import EventStream, event
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.request_id import request_id_metadata
from router_service.text.detokenizer import Detokenizer
from router_service.text.tokenizer import Tokenizer

SCORE_DIGITS = 6


@dataclass(frozen=True)
class ShownPrompt:
    """Of a prompt the tokens that the page shows, and how many it does not; `chat` says what it was made of."""

    ids: list[int]
    left_out: int = 0
    chat: bool = False


class PageResponseWriter:
    """Writes responses as events. Nothing is sent before the first, so that a refusal can still be an HTTP status."""

    def __init__(self, request: web.Request, tokenizer: Tokenizer, shown: ShownPrompt, patience_s: float) -> None:
        self.stream: EventStream | None = None
        self._request = request
        self._patience_s = patience_s
        self._texts = TokenTexts(tokenizer)
        self._shown = shown
        self._headers: dict[str, str] = {}

    def time_remaining(self) -> float | None:
        """See `ResponseWriter`."""
        return None

    def done(self) -> bool:
        """See `ResponseWriter`."""
        transport = self._request.transport
        return transport is None or transport.is_closing()

    async def accepted(self, request_id: str, /) -> None:
        """See `ResponseWriter`; the id becomes a header of the response, to find its log lines by."""
        self._headers = dict(request_id_metadata(request_id))

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """See `ResponseWriter`."""
        if self.stream is None:
            await self._open()
        tokens = self._texts.of(response.token_ids)
        for index in response.degraded_token_indexes:
            tokens[index]["degraded"] = True
        ended = response.finish_reason != pb.FINISH_REASON_UNSPECIFIED
        if ended:
            tokens += self._texts.flush()
        if tokens:
            await self.send("tokens", {"generated": True, "tokens": tokens})
        if response.routing:
            await self.send("routing", [_position(routing) for routing in response.routing])
        if self._shown.chat and (delta := _delta(response)):
            await self.send("delta", delta)
        if ended:
            await self.send("end", _end(response))

    async def send(self, kind: str, data: Any) -> None:
        """Write one event; wait while the page does not read."""
        assert self.stream is not None
        await self.stream.write(event(kind, msgspec.json.encode(data)))

    def ended(self) -> web.StreamResponse:
        """The response, completely written."""
        assert self.stream is not None
        return self.stream.response

    async def _open(self) -> None:
        self.stream = EventStream(self._request, self._patience_s, **self._headers)
        await self.stream.open()
        given = {"generated": False, "tokens": self._texts.of(self._shown.ids)}
        await self.send("tokens", given | ({"left_out": self._shown.left_out} if self._shown.left_out else {}))


class TokenTexts:
    """What each token adds to the text, in whole characters, so that they concatenate to the text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)

    def of(self, ids: Iterable[int]) -> list[dict[str, Any]]:
        """Return each token's id and text; the text of a special token is its name."""
        return [self._one(id) for id in ids]

    def flush(self) -> list[dict[str, Any]]:
        """Return the rest of an incomplete character as a token without an id, if there is one."""
        text = self._detokenizer.flush()
        return [{"id": None, "text": text}] if text else []

    def _one(self, id: int) -> dict[str, Any]:
        if self._tokenizer.is_visible(id):
            return {"id": id, "text": self._detokenizer.push([id])}
        return {"id": id, "text": self._tokenizer.text_of(id), "special": True}


def _position(routing: pb.TokenRouting) -> list[dict[str, Any]]:
    """One position's layers, with the gate's scores as [expert, score]."""
    return [
        {
            "layer": layer.layer,
            "chosen": [
                [expert, round(weight, SCORE_DIGITS), shard]
                for expert, weight, shard in zip(layer.experts, layer.weights, layer.shards, strict=True)
            ],
            "scores": [
                [expert, round(score, SCORE_DIGITS)]
                for expert, score in zip(layer.scored_experts, layer.scores, strict=True)
            ],
        }
        for layer in routing.layers
    ]


def _delta(response: pb.GenerateResponse) -> dict[str, Any]:
    """What a response adds to the answer, without what is empty."""
    calls = [
        {"index": call.index, "id": call.id, "name": call.name, "arguments": call.arguments}
        for call in response.tool_calls
    ]
    parts = {"reasoning": response.reasoning, "text": response.text, "tool_calls": calls}
    return {name: value for name, value in parts.items() if value}


def _end(response: pb.GenerateResponse) -> dict[str, Any]:
    usage = {field.name: getattr(response.usage, field.name) for field in response.usage.DESCRIPTOR.fields}
    return {"finish": pb.FinishReason.Name(response.finish_reason).lower(), "usage": usage}
