"""Builds a client's responses from a request's outputs: whole characters, no stop string, one final message."""

from collections.abc import Iterator, Sequence

from router_service.front.errors import RequestError, from_router
from router_service.front.routing.stream_queue import Arrival
from router_service.front.telemetry.request_record import RequestRecord
from router_service.front.text.detokenizer import Detokenizer
from router_service.front.text.stop_strings import StopMatcher
from router_service.front.text.tokenizer import Tokenizer
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import LayerRouting, Logprob, TokenLogprobs

# Positions of prompt log-probabilities in one message: with 20 best tokens each they take about 0.5 MB.
PROMPT_POSITIONS = 512
FINISH = {"stop": pb.STOP, "length": pb.LENGTH}


class ResponseBuilder:
    """State of one request's answer. `finished` is set after the last response, `error` if the router failed it."""

    def __init__(self, record: RequestRecord, tokenizer: Tokenizer, stops: Sequence[str], min_tokens: int = 0) -> None:
        """`record` is told of all tokens that belong to the answer; stop strings count behind `min_tokens` of them."""
        self.finished = False
        self.error: RequestError | None = None
        self._record = record
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(stops)
        self._watchful = bool(stops)
        self._min_tokens = min_tokens

    def extend(self, arrivals: Sequence[Arrival]) -> pb.GenerateResponse:
        """Return one response for all `arrivals`; tokens after the end of the answer are left out."""
        response = pb.GenerateResponse(request_id=self._record.request_id)
        for arrival in arrivals:
            self._add(arrival, response)
            if self.finished or self.error is not None:
                break
        return response

    def cut(self) -> pb.GenerateResponse:
        """Return the last response of a stream that the server cancels."""
        response = pb.GenerateResponse(request_id=self._record.request_id)
        self._finish(response, pb.CANCELLED)
        return response

    def _add(self, arrival: Arrival, response: pb.GenerateResponse) -> None:
        output = arrival.output
        used, text = self._read(output.token_ids)
        self._record.tokens(arrival, used)
        response.text += text
        response.token_ids.extend(output.token_ids[:used])
        response.logprobs.extend(self._logprob(entry) for entry in output.logprobs[:used])
        response.routing.extend(_routing(layers) for layers in output.routing)
        response.prompt_logprobs.extend(self._logprob(entry) for entry in output.prompt_logprobs)
        # An answer that has reached its stop string is complete, whatever happens after it.
        if output.failure is not None and not self._matcher.stopped:
            self.error = from_router(output.failure.code, output.failure.message)
        elif self._matcher.stopped:
            self._finish(response, pb.STOP)
        elif output.finish is not None:
            self._finish(response, FINISH.get(output.finish, pb.CANCELLED))

    def _read(self, ids: list[int]) -> tuple[int, str]:
        """Return how many of `ids` belong to the answer, and the text that is now certain."""
        if not self._watchful:
            return len(ids), self._detokenizer.push(ids)
        text = ""
        # One by one: a stop string may end within these tokens, and the usage counts up to the one that completes it.
        for used, id in enumerate(ids, start=1):
            text += self._matcher.push(self._detokenizer.push([id]), self._may_stop(used))
            if self._matcher.stopped:
                return used, text
        return len(ids), text

    def _may_stop(self, more: int) -> bool:
        """Whether a stop string ends the answer after `more` tokens."""
        return self._record.answer.tokens + more > self._min_tokens

    def _finish(self, response: pb.GenerateResponse, reason: pb.FinishReason) -> None:
        if not self._matcher.stopped:
            rest = self._matcher.push(self._detokenizer.flush(), self._may_stop(0))
            response.text += rest + self._matcher.flush()
        response.finish_reason = pb.STOP if self._matcher.stopped else reason
        response.usage.CopyFrom(self._usage())
        self.finished = True

    def _usage(self) -> pb.Usage:
        timings = self._record.timings
        return pb.Usage(
            prompt_tokens=self._record.prompt_tokens,
            cached_prompt_tokens=timings.cached_prompt_tokens,
            generated_tokens=self._record.answer.tokens,
            queue_seconds=timings.queue_seconds,
            prefill_seconds=timings.prefill_seconds,
            decode_seconds=timings.decode_seconds,
        )

    def _logprob(self, entry: TokenLogprobs) -> pb.TokenLogprob:
        chosen = self._token(entry.chosen)
        chosen.top.extend(self._token(candidate) for candidate in entry.top)
        return chosen

    def _token(self, entry: Logprob) -> pb.TokenLogprob:
        raw = self._tokenizer.bytes_of(entry.token_id)
        text = raw.decode("utf-8", errors="replace")
        return pb.TokenLogprob(token_id=entry.token_id, text=text, raw=raw, logprob=entry.logprob)


def in_parts(response: pb.GenerateResponse) -> Iterator[pb.GenerateResponse]:
    """Yield messages that together are `response`, none with more prompt log-probabilities than a client takes."""
    while len(response.prompt_logprobs) > PROMPT_POSITIONS:
        part = response.prompt_logprobs[:PROMPT_POSITIONS]
        del response.prompt_logprobs[:PROMPT_POSITIONS]
        yield pb.GenerateResponse(request_id=response.request_id, prompt_logprobs=part)
    yield response


def _routing(layers: list[LayerRouting]) -> pb.TokenRouting:
    return pb.TokenRouting(
        layers=[
            pb.LayerRouting(
                layer=one.layer,
                experts=one.experts,
                weights=one.weights,
                shards=one.shards,
                scored_experts=[expert for expert, _ in one.scores],
                scores=[score for _, score in one.scores],
            )
            for one in layers
        ]
    )
