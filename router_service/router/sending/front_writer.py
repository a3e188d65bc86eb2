"""The thread that packs and sends what one Front gets: the engine's time is every stream's."""

import logging
import queue
from collections.abc import Callable, Sequence
from itertools import count

from experts.host.log import fields
from experts.transport.channel import Channel
from experts.transport.frame import Kind
from router_service.engine.faults.apart import apart
from router_service.engine.request import Event
from router_service.protocol.messages import (
    Activity,
    Cancel,
    RouterHello,
    RouterReport,
    StepOutputs,
    StreamFailure,
    StreamOutput,
    encode,
)
from router_service.router.sending.send_order import SendOrder

log = logging.getLogger(__name__)

# `Cancel` is of the Front: nothing that waits for that stream is sent any more. None ends the writer.
Outgoing = list[Event] | RouterHello | RouterReport | Activity | Cancel | None


class TooLargeError(Exception):
    """A message that is larger than a Front reads."""


class FrontWriter:
    """Sends what is put into `outgoing`, in order, but a stream's large events in pieces between the others.

    Args:
        failed: called on the writer's thread with a stream whose output alone is larger than a message may be, or
            cannot be packed. Its failure is sent by the writer; its request is still in the engine.
        max_bytes: the largest message that the Front reads.
    """

    def __init__(self, channel: Channel, failed: Callable[[int], None], max_bytes: int) -> None:
        self.outgoing: queue.SimpleQueue[Outgoing] = queue.SimpleQueue()
        self._channel = channel
        self._failed = failed
        self._max_bytes = max_bytes
        self._order = SendOrder()
        self._sequence = count()

    def run(self) -> None:
        """Send until None is put.

        Raises:
            OSError: the Front is gone or does not read.
        """
        while True:
            try:
                item = self.outgoing.get(block=self._order.empty)
            except queue.Empty:
                item = []
            if item is None:
                return
            self._handle(item)
            # One after each item, however fast they come.
            self._send_events(self._order.take())

    def _handle(self, item: list[Event] | RouterHello | RouterReport | Activity | Cancel) -> None:
        if isinstance(item, list):
            self._send_events(self._order.add(item))
        elif isinstance(item, Cancel):
            self._order.drop(item.stream)
        else:
            self._send_message(item)

    def _send_message(self, message: RouterHello | RouterReport | Activity) -> None:
        payload = encode(message)
        if len(payload) > self._max_bytes:
            text = "a message to a front is left out: it has %d bytes, at most %d are allowed"
            log.error(text, len(payload), self._max_bytes, extra=fields(message=type(message).__name__))
        else:
            self._send(payload)

    def _send_events(self, events: list[Event]) -> None:
        """Send events in one message if it is within the limit; what alone is over it, or cannot be packed, fails."""
        for _, payload in apart(events, self._pack, self._fail):
            self._send(payload)

    def _pack(self, events: Sequence[Event]) -> bytes:
        payload = encode(StepOutputs([output_of(event) for event in events]))
        if len(payload) > self._max_bytes:
            text = (
                f"an output of the request takes {len(payload)} bytes, a message to a Front at most {self._max_bytes}"
            )
            raise TooLargeError(text)
        return payload

    def _fail(self, event: Event, error: Exception) -> None:
        """End a stream whose event cannot be sent; the others of its Front go on."""
        if isinstance(error, TooLargeError):
            failure = StreamFailure("RESOURCE_EXHAUSTED", str(error))
        else:
            name = type(error).__name__
            failure = StreamFailure(
                "INTERNAL", f"the router cannot pack an output of the request ({name}), see its log"
            )
        log.warning("a stream fails: %s", failure.message, exc_info=error, extra=fields(stream=event.stream))
        self._failed(event.stream)
        self._order.drop(event.stream)
        self._send(encode(StepOutputs([StreamOutput(event.stream, [], failure=failure)])))

    def _send(self, payload: bytes) -> None:
        self._channel.send(Kind.MESSAGE, next(self._sequence), [payload])


def output_of(event: Event) -> StreamOutput:
    """Pack an event that has at most one part of routing."""
    return StreamOutput(
        stream=event.stream,
        token_ids=[] if event.token is None else [event.token],
        logprobs=[] if event.logprobs is None else [event.logprobs],
        routing=event.routing[0].pack() if event.routing else None,
        finish=event.finish,
        failure=event.failure,
        timings=event.timings,
        summary=event.summary,
        prompt_logprobs=event.prompt_logprobs or [],
        degraded=[0] if event.degraded else [],
    )
