"""The Front's record of one request. Metrics, log and spans listen to it and read its numbers."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from experts.host.log import fields, stack_of
from router_service.front.routing.stream_queue import Arrival
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Submit, Timings

logger = logging.getLogger(__name__)

FINISH_NAMES = {pb.STOP: "stop", pb.LENGTH: "length", pb.CANCELLED: "cancelled", pb.TOOL_CALLS: "tool_calls"}


@dataclass(slots=True)
class Progress:
    """Number of tokens, times of the first and the last (event loop's seconds), and the router's latest timings."""

    tokens: int = 0
    first: float | None = None
    last: float | None = None
    timings: Timings | None = None

    def add(self, arrival: Arrival, count: int) -> None:
        """Count `count` tokens of an arrival."""
        self.timings = arrival.output.timings or self.timings
        if count:
            self.tokens += count
            self.first = arrival.at if self.first is None else self.first
            self.last = arrival.at


class RequestListener:
    """Is told of each step of a request after the record is updated. Override the methods that matter."""

    def submitted(self, record: "RequestRecord") -> None:
        """The request is about to be sent to a router, which may still refuse it."""

    def arrived(self, record: "RequestRecord", arrival: Arrival) -> None:
        """An output was received; some of its tokens may come after the end of the answer."""

    def tokens(self, record: "RequestRecord", count: int, since: float | None) -> None:
        """`count` more tokens, at least one, belong to the answer; those before came at `since`, None for the first."""

    def finished(self, record: "RequestRecord") -> None:
        """The last response was written."""

    def failed(self, record: "RequestRecord") -> None:
        """The request ended with an error."""


class RequestRecord:
    """One request; exactly one of `finished` and `failed` ends it. Times are in seconds of `clock`, the event loop's.

    `counters` are told of each answer of the request (see `answers`), `listeners` of the request as a whole. An
    exception of either is logged and affects neither the request nor the others.
    """

    def __init__(
        self,
        request_id: str,
        clock: Callable[[], float],
        listeners: Iterable[RequestListener] = (),
        counters: Iterable[RequestListener] = (),
    ) -> None:
        self.request_id = request_id
        self.trace_id = ""  # empty where it is not traced
        self.began = clock()
        self.submit: Submit | None = None
        self.received = Progress()
        self.answer = Progress()
        # How it ended: `finishes` name the reason of each answer, `code` is the gRPC status of a failure.
        self.ended: float | None = None
        self.finishes: list[str] = []
        self.code = ""
        self.message = ""
        self._clock = clock
        self._listeners = tuple(listeners)
        self._counters = tuple(counters)
        # Whether the answers have records of their own, which tell the counters.
        self._divided = False

    @property
    def finish(self) -> str:
        """Why the answers ended, each reason once."""
        return ",".join(dict.fromkeys(self.finishes))

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, 0 before it is known."""
        return 0 if self.submit is None else len(self.submit.prompt)

    @property
    def seconds(self) -> float:
        """Seconds from the arrival to the end, or to now."""
        return (self._clock() if self.ended is None else self.ended) - self.began

    @property
    def timings(self) -> Timings:
        """How the answer's time was spent; measured by the Front where the router has sent no timings."""
        last = self.began if self.answer.last is None else self.answer.last
        first = last if self.answer.first is None else self.answer.first
        told = self.answer.timings or Timings(0.0, first - self.began, 0.0)
        # The first output's timings have no decoding yet, and a stream that the Front ends gets no others.
        return msgspec.structs.replace(told, decode_seconds=told.decode_seconds or last - first)

    def listen(self, listener: RequestListener, trace_id: str) -> None:
        """Add the listener that traces the request."""
        self.trace_id = trace_id
        self._listeners += (listener,)

    def answers(self, count: int) -> "list[RequestRecord]":
        """Return the record of each of the request's answers: this one itself, if there is one only.

        Else each has its own steps, tokens and end. They count here as well, but for their ends: `finished` is to be
        called of this one too, and `failed` of this one only.
        """
        if count == 1:
            return [self]
        self._divided = True
        return [AnswerRecord(self, self._clock, self._counters, timed=not index) for index in range(count)]

    def submitted(self, submit: Submit) -> None:
        """Note what is sent to a router."""
        self.submit = submit
        self._notify(lambda listener: listener.submitted(self))

    def arrived(self, arrivals: Sequence[Arrival]) -> None:
        """Note received outputs."""
        for arrival in arrivals:
            self._arrived(arrival)

    def tokens(self, arrival: Arrival, count: int) -> None:
        """Note that the first `count` tokens of an arrival belong to the answer."""
        since = self.answer.last
        self.answer.add(arrival, count)
        if count:
            self._notify(lambda listener: listener.tokens(self, count, since))

    def finished(self, *reasons: pb.FinishReason) -> None:
        """Note that the last response was written, and why each answer ended."""
        self.finishes = [FINISH_NAMES[reason] for reason in reasons]
        self.ended = self._clock()
        self._notify(lambda listener: listener.finished(self))

    def failed(self, code: str, message: str = "") -> None:
        """Note that it ended with the gRPC status `code`."""
        self.code, self.message = code, message
        self.ended = self._clock()
        self._divided = False  # a failure is the whole request's, and counted once
        self._notify(lambda listener: listener.failed(self))

    def _arrived(self, arrival: Arrival) -> None:
        self.received.add(arrival, len(arrival.output.token_ids))
        self._notify(lambda listener: listener.arrived(self, arrival))

    def _notify(self, step: Callable[[RequestListener], None]) -> None:
        for listener in self._listeners if self._divided else (*self._counters, *self._listeners):
            try:
                step(listener)
            except Exception as error:
                log_observer_fault(type(listener).__name__, error)


class AnswerRecord(RequestRecord):
    """One of several answers of the request `whole`. Times count from that one's arrival."""

    def __init__(
        self, whole: RequestRecord, clock: Callable[[], float], counters: Iterable[RequestListener], timed: bool
    ) -> None:
        """`timed`: whether the times of this answer's router are the whole request's."""
        super().__init__(whole.request_id, clock, counters=counters)
        self.began = whole.began
        self.submit = whole.submit
        self._whole = whole
        self._timed = timed

    def tokens(self, arrival: Arrival, count: int) -> None:
        """See `RequestRecord`."""
        super().tokens(arrival, count)
        self._whole.answer.add(self._shared(arrival), count)

    def arrived(self, arrivals: Sequence[Arrival]) -> None:
        """See `RequestRecord`."""
        super().arrived(arrivals)
        self._whole.arrived([self._shared(arrival) for arrival in arrivals])

    def _shared(self, arrival: Arrival) -> Arrival:
        """Return what the whole request has of an arrival: it decodes from its first token to any answer's last."""
        timings = arrival.output.timings
        if timings is None:
            return arrival
        shared = msgspec.structs.replace(timings, decode_seconds=0.0) if self._timed else None
        return Arrival(arrival.at, msgspec.structs.replace(arrival.output, timings=shared))


def log_observer_fault(observer: str, error: Exception) -> None:
    """Log a fault of an observer."""
    with suppress(Exception):  # the log itself may be what is broken
        text = "an observer failed (%s), the request that it watches goes on"
        logger.error(text, observer, extra=fields(stack=stack_of(error)))
