"""Builds a client's responses from a request's outputs: whole characters, no stop string, one final message."""

from collections.abc import Iterator, Sequence

from router_service.front.api.routing_responses import routing_of
from router_service.front.errors import RequestError, from_router
from router_service.front.routing.stream_queue import Arrival
from router_service.front.telemetry.request_record import RequestRecord
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Logprob, StreamOutput, TokenLogprobs
from router_service.text.detokenizer import Detokenizer
from router_service.text.stop_strings import StopMatcher
from router_service.text.tokenizer import Tokenizer

# A response that has reached this size is sent. The event loop builds so much in some milliseconds, and gRPC's clients
# read 4 MiB unless told otherwise.
FULL_BYTES = 64 << 10
# Of an entry of a repeated field beside its content, and of a token id.
ENTRY_BYTES = 5
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
        self._response = self._empty()
        self._size = 0
        self._min_tokens = min_tokens
        self._degraded = 0
        # Of an earlier call: its tokens, and how many characters of the text that follows were delivered by it.
        self._before = self._delivered = 0

    def go_on(self, before: pb.Continuation) -> None:
        """Begin behind what an earlier call has delivered. The text may end at a stop string there: see `stopped`."""
        self._delivered = before.text_characters
        used, text = self._read(before.token_ids)
        self._response.text += self._fresh(text)
        self._before = used
        self._size += 4 * len(self._response.text)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the answer."""
        return self._matcher.stopped

    def extend(self, arrivals: Sequence[Arrival]) -> Iterator[pb.GenerateResponse]:
        """Yield one response for all `arrivals`, or several where they are large, each built when it is asked for.

        A response is complete at `FULL_BYTES` and at most one position or token larger. Tokens after the end of the
        answer are left out; `finished` or `error` is set before the last response is yielded.
        """
        for arrival in arrivals:
            yield from self._full_of_positions(arrival.output)
            self._add(arrival)
            if self.finished or self.error is not None:
                break
            if self._size >= FULL_BYTES:
                yield self._take()
        if self._size or self.finished or self.error is not None:
            yield self._take()

    def cut(self, reason: pb.FinishReason = pb.CANCELLED) -> pb.GenerateResponse:
        """Return the last response of a stream that the server cancels, or that had its last token before."""
        self._finish(self._response, reason)
        return self._take()

    def _full_of_positions(self, output: StreamOutput) -> Iterator[pb.GenerateResponse]:
        """Add what an output has for each position; yield each response that is full before the next position."""
        for field, entry in self._positions(output):
            if self._size >= FULL_BYTES:
                yield self._take()
            getattr(self._response, field).append(entry)
            self._size += entry.ByteSize() + ENTRY_BYTES

    def _positions(self, output: StreamOutput) -> Iterator[tuple[str, pb.TokenRouting | pb.TokenLogprob]]:
        """Yield the response's field and the entry of each position."""
        for entry in output.prompt_logprobs:
            yield "prompt_logprobs", self._logprob(entry)
        for routing in () if output.routing is None else routing_of(output.routing):
            yield "routing", routing

    def _take(self) -> pb.GenerateResponse:
        taken, self._response, self._size = self._response, self._empty(), 0
        return taken

    def _empty(self) -> pb.GenerateResponse:
        return pb.GenerateResponse(request_id=self._record.request_id)

    def _add(self, arrival: Arrival) -> None:
        output, response = arrival.output, self._response
        used, text = self._read(output.token_ids)
        self._record.tokens(arrival, used)
        response.text += self._fresh(text)
        self._mark(output, used)
        response.token_ids.extend(output.token_ids[:used])
        logprobs = [self._logprob(entry) for entry in output.logprobs[:used]]
        response.logprobs.extend(logprobs)
        # A character is at most four bytes; a token without text counts too, or its response would not be sent.
        self._size += ENTRY_BYTES * len(output.token_ids) + 4 * len(text)
        self._size += sum(entry.ByteSize() + ENTRY_BYTES for entry in logprobs)
        # An answer that has reached its stop string is complete, whatever happens after it.
        if output.failure is not None and not self._matcher.stopped:
            self.error = from_router(output.failure.code, output.failure.message)
        elif self._matcher.stopped:
            self._finish(response, pb.STOP)
        elif output.finish is not None:
            self._finish(response, FINISH.get(output.finish, pb.CANCELLED))

    def _mark(self, output: StreamOutput, used: int) -> None:
        """Mark those of an output's next `used` tokens that are degraded."""
        before = len(self._response.token_ids)
        marks = [before + index for index in output.degraded if index < used]
        self._response.degraded_token_indexes.extend(marks)
        self._degraded += len(marks)

    def _fresh(self, text: str) -> str:
        """Return what of the next text was not delivered by an earlier call."""
        known = min(self._delivered, len(text))
        self._delivered -= known
        return text[known:]

    def _read(self, ids: Sequence[int]) -> tuple[int, str]:
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
        return self._before + self._record.answer.tokens + more > self._min_tokens

    def _finish(self, response: pb.GenerateResponse, reason: pb.FinishReason) -> None:
        if not self._matcher.stopped:
            rest = self._matcher.push(self._detokenizer.flush(), self._may_stop(0))
            response.text += self._fresh(rest + self._matcher.flush())
        response.finish_reason = pb.STOP if self._matcher.stopped else reason
        response.usage.CopyFrom(self._usage())
        self.finished = True

    def _usage(self) -> pb.Usage:
        timings = self._record.timings
        return pb.Usage(
            prompt_tokens=self._record.prompt_tokens,
            cached_prompt_tokens=timings.cached_prompt_tokens,
            generated_tokens=self._before + self._record.answer.tokens,
            queue_seconds=timings.queue_seconds,
            prefill_seconds=timings.prefill_seconds,
            decode_seconds=timings.decode_seconds,
            degraded_tokens=self._degraded,
        )

    def _logprob(self, entry: TokenLogprobs) -> pb.TokenLogprob:
        chosen = self._token(entry.chosen)
        chosen.top.extend(self._token(candidate) for candidate in entry.top)
        return chosen

    def _token(self, entry: Logprob) -> pb.TokenLogprob:
        raw = self._tokenizer.bytes_of(entry.token_id)
        text = raw.decode("utf-8", errors="replace")
        return pb.TokenLogprob(token_id=entry.token_id, text=text, raw=raw, logprob=entry.logprob)
