"""Builds a client's responses from a request's outputs: whole characters, no stop string, one final message."""

from collections.abc import Iterator, Sequence

from router_service.front.api.answers.answer_text import AnswerText
from router_service.front.api.answers.delivered_part import DeliveredPart
from router_service.front.api.answers.logprob_responses import logprob_of
from router_service.front.api.answers.prompt_echo import PromptEcho
from router_service.front.api.answers.routing_responses import routing_of
from router_service.front.errors import RequestError, from_router
from router_service.front.parsing.parsed import CallDelta, Parsed
from router_service.front.routing.stream_queue import Arrival
from router_service.front.telemetry.request_record import RequestRecord
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import StreamOutput
from router_service.text.tokenizer import Tokenizer

# A response that has reached this size is sent. The event loop builds so much in some milliseconds, and gRPC's clients
# read 4 MiB unless told otherwise.
FULL_BYTES = 64 << 10
# Of an entry of a repeated field beside its content, and of a token id.
ENTRY_BYTES = 5
FINISH = {"stop": pb.STOP, "length": pb.LENGTH}


class ResponseBuilder:
    """State of one answer. `finished` is set after the last response, `error` if the router failed it."""

    def __init__(
        self,
        record: RequestRecord,
        tokenizer: Tokenizer,
        text: AnswerText,
        *,
        min_tokens: int = 0,
        index: int = 0,
        echo: PromptEcho | None = None,
    ) -> None:
        """`record` is told of all tokens that belong to the answer; stop strings count behind `min_tokens` of them.

        Responses are of the answer `index`; the first ones have what is in `echo`.
        """
        self.finished = False
        self.error: RequestError | None = None
        self._record = record
        self._tokenizer = tokenizer
        self._text = text
        self._index = index
        self._echo = echo
        self._response = self._empty()
        self._size = 0
        self._min_tokens = min_tokens
        self._degraded = 0
        # Of an earlier call: its tokens, and what it delivered of what was made of them.
        self._before = 0
        self._delivered = DeliveredPart(pb.Continuation())

    def go_on(self, before: pb.Continuation) -> None:
        """Begin behind what an earlier call has delivered. The text may end at a stop string there: see `stopped`."""
        self._delivered = DeliveredPart(before)
        used, parsed = self._text.push(before.token_ids, self._may_stop)
        self._append(parsed)
        self._before = used

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the answer."""
        return self._text.stopped

    def extend(self, arrivals: Sequence[Arrival]) -> Iterator[pb.GenerateResponse]:
        """Yield one response for all `arrivals`, or several where they are large, each built when it is asked for.

        A response is complete at `FULL_BYTES` and at most one position or token larger. Tokens after the end of the
        answer are left out; `finished` or `error` is set before the last response is yielded.
        """
        yield from self._full_of_prompt(arrivals[0].output)
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

    def _full_of_prompt(self, first: StreamOutput) -> Iterator[pb.GenerateResponse]:
        """Add the prompt, once, where it is wanted; yield each response that is full of it."""
        echo, self._echo = self._echo, None
        if echo is None or first.failure is not None:
            return
        for text, ids in echo.parts():
            if self._size:
                yield self._take()
            self._response.prompt_text = text
            self._response.prompt_token_ids.extend(ids)
            self._size = 4 * len(text) + ENTRY_BYTES * len(ids)

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
            yield "prompt_logprobs", logprob_of(entry, self._tokenizer)
        for routing in () if output.routing is None else routing_of(output.routing):
            yield "routing", routing

    def _take(self) -> pb.GenerateResponse:
        taken, self._response, self._size = self._response, self._empty(), 0
        return taken

    def _empty(self) -> pb.GenerateResponse:
        return pb.GenerateResponse(request_id=self._record.request_id, index=self._index)

    def _add(self, arrival: Arrival) -> None:
        output, response = arrival.output, self._response
        used, parsed = self._text.push(output.token_ids, self._may_stop)
        self._record.tokens(arrival, used)
        self._append(parsed)
        self._mark(output, used)
        response.token_ids.extend(output.token_ids[:used])
        logprobs = [logprob_of(entry, self._tokenizer) for entry in output.logprobs[:used]]
        response.logprobs.extend(logprobs)
        # A token without text counts too, or its response would not be sent.
        self._size += ENTRY_BYTES * len(output.token_ids)
        self._size += sum(entry.ByteSize() + ENTRY_BYTES for entry in logprobs)
        # An answer that has reached its stop string is complete, whatever happens after it.
        if output.failure is not None and not self.stopped:
            self.error = from_router(output.failure.code, output.failure.message)
        elif self.stopped:
            self._finish(response, pb.STOP)
        elif output.finish is not None:
            self._finish(response, FINISH.get(output.finish, pb.CANCELLED))

    def _mark(self, output: StreamOutput, used: int) -> None:
        """Mark those of an output's next `used` tokens that are degraded."""
        before = len(self._response.token_ids)
        marks = [before + index for index in output.degraded if index < used]
        self._response.degraded_token_indexes.extend(marks)
        self._degraded += len(marks)

    def _append(self, parsed: Parsed) -> None:
        """Add what was not delivered by an earlier call."""
        fresh, response = self._delivered.fresh(parsed), self._response
        response.text += fresh.content
        response.reasoning += fresh.reasoning
        # A character is at most four bytes.
        self._size += 4 * (len(fresh.content) + len(fresh.reasoning))
        for call in fresh.calls:
            self._append_call(call)

    def _append_call(self, call: CallDelta) -> None:
        calls = self._response.tool_calls
        if calls and calls[-1].index == call.index and not call.id:
            calls[-1].arguments += call.arguments
        else:
            calls.add(index=call.index, id=call.id, name=call.name, arguments=call.arguments)
        self._size += ENTRY_BYTES + 4 * (len(call.arguments) + len(call.name) + len(call.id))

    def _may_stop(self, more: int) -> bool:
        """Whether a stop string ends the answer after `more` tokens."""
        return self._before + self._record.answer.tokens + more > self._min_tokens

    def _finish(self, response: pb.GenerateResponse, reason: pb.FinishReason) -> None:
        self._append(self._text.flush(self._may_stop(0)))
        reason = pb.STOP if self.stopped else reason
        response.finish_reason = pb.TOOL_CALLS if reason == pb.STOP and self._text.called else reason
        if isinstance(stop := self._text.stop_reason, str):
            response.stop_text = stop
        elif stop is not None:
            response.stop_token_id = stop
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
            reasoning_tokens=self._text.reasoning_tokens,
        )
