"""POST /api/generate: an answer token by token, with where each token was routed, as server-sent events.

Events: `tokens` (prompt or generated, in order), `routing` (one entry a position, in order), and at the end `end` or
`error`. A request that is refused before its first token gets an HTTP status and one JSON object instead.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from router_service.front.api.inference_service import InferenceService
from router_service.front.api.prompt import encode_input
from router_service.front.api.scheduling import FALLBACKS
from router_service.front.errors import RequestError, invalid
from router_service.front.http.body import GenerateBody, check_range, read_body
from router_service.front.http.server_sent_events import EventStream, event
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.request_id import request_id_metadata
from router_service.text.detokenizer import Detokenizer
from router_service.text.text_model import TextModel
from router_service.text.tokenizer import Tokenizer

# Each position comes with scores of every layer, so this bounds what one page requests of a router.
MAX_PROMPT_TOKENS = 1024
MAX_NEW_TOKENS = 1024
MAX_SEED = (1 << 64) - 1
SCORE_DIGITS = 6


class GenerateHandler:
    """Serves the page's generations in the same way as those of gRPC."""

    def __init__(self, inference: InferenceService, text: TextModel, patience_s: float) -> None:
        """A page that reads nothing for `patience_s` loses its answer."""
        self._inference = inference
        self._text = text
        self._patience_s = patience_s

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Stream an answer.

        Raises:
            RequestError: the request was refused before its first token.
        """
        body = await read_body(request, GenerateBody)
        wanted = self._request_of(body)
        prompt = (await encode_input(wanted, self._text, self._inference.limits())).ids
        check_range("prompt tokens of the page", len(prompt), 1, MAX_PROMPT_TOKENS)
        # Tokens replace the text as input: it is not encoded again, and the page shows the same ids.
        wanted.tokens.ids.extend(prompt)
        writer = PageResponseWriter(request, self._text.tokenizer, prompt, self._patience_s)
        try:
            await self._inference.answer(wanted, writer)
        except RequestError as error:
            if writer.stream is None or writer.done():
                raise
            await writer.send("error", {"error": error.message, "code": error.code.name})
        return writer.ended()

    def _request_of(self, body: GenerateBody) -> pb.GenerateRequest:
        check_range("max_tokens", body.max_tokens, 1, MAX_NEW_TOKENS)
        sampling = pb.Sampling(max_tokens=body.max_tokens)
        if body.temperature is not None:
            sampling.temperature = body.temperature
        if body.seed is not None:
            check_range("seed", body.seed, 0, MAX_SEED)
            sampling.seed = body.seed
        fallback = fallback_named(body.fallback)
        request = pb.GenerateRequest(sampling=sampling, return_routing=True, return_scores=True, fallback=fallback)
        if body.messages and body.prompt:
            raise invalid("prompt", "comes without messages; send one of both")
        if body.messages:
            messages = [pb.Message(role=one.role, content=one.content) for one in body.messages]
            request.chat.CopyFrom(pb.Chat(messages=messages))
        else:
            request.prompt = body.prompt
        return request


def fallback_named(name: str) -> pb.Fallback:
    """Return the policy of this name, the server's default for "".

    Raises:
        RequestError: INVALID_ARGUMENT, there is no such policy.
    """
    named = {policy: value for value, policy in FALLBACKS.items()}
    if name not in named:
        raise invalid("fallback", f"must be one of {', '.join(filter(None, named))}, or empty, got {name!r}")
    return named[name]


class PageResponseWriter:
    """Writes responses as events. Nothing is sent before the first, so that a refusal can still be an HTTP status."""

    def __init__(self, request: web.Request, tokenizer: Tokenizer, prompt: list[int], patience_s: float) -> None:
        self.stream: EventStream | None = None
        self._request = request
        self._patience_s = patience_s
        self._texts = TokenTexts(tokenizer)
        self._prompt = prompt
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
        texts = self._texts.of(self._prompt)
        await self.send("tokens", {"generated": False, "tokens": texts})


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


def _end(response: pb.GenerateResponse) -> dict[str, Any]:
    usage = {field.name: getattr(response.usage, field.name) for field in response.usage.DESCRIPTOR.fields}
    return {"finish": pb.FinishReason.Name(response.finish_reason).lower(), "usage": usage}
