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

FINISH_NAMES = {pb.STOP: "stop", pb.LENGTH: "length", pb.CANCELLED: "cancelled"}


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

    An exception of a listener is logged and affects neither the request nor other listeners.
    """

    def __init__(self, request_id: str, clock: Callable[[], float], listeners: Iterable[RequestListener] = ()) -> None:
        self.request_id = request_id
        self.trace_id = ""  # empty where it is not traced
        self.began = clock()
        self.submit: Submit | None = None
        self.received = Progress()
        self.answer = Progress()
        # How it ended: `finish` names the reason of an answer, `code` is the gRPC status of a failure.
        self.ended: float | None = None
        self.finish = ""
        self.code = ""
        self.message = ""
        self._clock = clock
        self._listeners = tuple(listeners)

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

    def finished(self, reason: pb.FinishReason) -> None:
        """Note that the last response was written."""
        self.finish = FINISH_NAMES[reason]
        self.ended = self._clock()
        self._notify(lambda listener: listener.finished(self))

    def failed(self, code: str, message: str = "") -> None:
        """Note that it ended with the gRPC status `code`."""
        self.code, self.message = code, message
        self.ended = self._clock()
        self._notify(lambda listener: listener.failed(self))

    def _arrived(self, arrival: Arrival) -> None:
        self.received.add(arrival, len(arrival.output.token_ids))
        self._notify(lambda listener: listener.arrived(self, arrival))

    def _notify(self, step: Callable[[RequestListener], None]) -> None:
        for listener in self._listeners:
            try:
                step(listener)
            except Exception as error:
                log_observer_fault(type(listener).__name__, error)


def log_observer_fault(observer: str, error: Exception) -> None:
    """Log a fault of an observer."""
    with suppress(Exception):  # the log itself may be what is broken
        text = "an observer failed (%s), the request that it watches goes on"
        logger.error(text, observer, extra=fields(stack=stack_of(error)))
