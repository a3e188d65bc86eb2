"""What the Front tells of each request: a line when a router has taken it, one when it has ended, its spans if sampled.

Neither holds a prompt or generated text.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experts.host.log import current_request, fields
from router_service.front.routing.stream_queue import Arrival
from router_service.front.telemetry.metrics import REASONS
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Submit
from router_service.protocol.request_id import new_request_id, shown_request_id

if TYPE_CHECKING:
    from router_service.front.telemetry.spans import RequestSpans, Tracer

logger = logging.getLogger(__name__)

# Statuses whose messages are words of our own; others may quote what the client sent.
TOLD = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
EXPECTED = ("INVALID_ARGUMENT", "CANCELLED", "DEADLINE_EXCEEDED")


class RequestLog:
    """Begins entries. `tracer` is None where tracing is off."""

    def __init__(self, tracer: "Tracer | None") -> None:
        self._tracer = tracer

    def begin(self, request: pb.GenerateRequest, metadata: Mapping[str, str], request_id: str = "") -> "Entry":
        """A request has come; without `request_id` it gets one, see `new_request_id`.

        From now on the lines of the running task carry the id.
        """
        request_id = request_id or new_request_id(request.request_id, metadata)
        shown = shown_request_id(request_id)
        current_request.set(shown)
        return Entry(request_id, None if self._tracer is None else self._tracer.begin(request, shown, metadata))


class Entry:
    """One request. Exactly one of `finished` and `failed` ends it."""

    def __init__(self, request_id: str, spans: "RequestSpans | None") -> None:
        self.request_id = request_id
        self._spans = spans
        self._begun = time.monotonic()
        self._prompt_tokens = 0
        self._tokens = 0
        # What the line says that it is accepted; None before there is a request and after the line.
        self._accepted: dict[str, Any] | None = None

    @property
    def traced(self) -> bool:
        """Whether the router should send summaries of steps."""
        return self._spans is not None

    def submitted(self, submit: Submit) -> None:
        """It is about to go to a router, which may yet refuse it."""
        self._prompt_tokens = len(submit.prompt)
        values: dict[str, Any] = {"prompt_tokens": len(submit.prompt), "max_tokens": submit.sampling.max_tokens}
        if self._spans is not None:
            self._spans.submitted(submit)
            values["trace_id"] = self._spans.trace_id
        self._accepted = values

    def arrived(self, arrivals: Sequence[Arrival]) -> None:
        """Outputs have come. The first that is no refusal is how the Front knows that a router has taken it."""
        for arrival in arrivals:
            self._tokens += len(arrival.output.token_ids)
        if self._accepted is not None and self._tokens:
            logger.info("request accepted", extra=fields(**self._accepted))
            self._accepted = None
        if self._spans is not None:
            self._spans.arrived(arrivals)

    def finished(self, last: pb.GenerateResponse) -> None:
        """Its client has the last response."""
        usage = last.usage
        values = {
            "finish": REASONS[last.finish_reason],
            "prompt_tokens": usage.prompt_tokens,
            "tokens": usage.generated_tokens,
            "seconds": self._seconds(),
            "queue_seconds": round(usage.queue_seconds, 6),
            "prefill_seconds": round(usage.prefill_seconds, 6),
            "decode_seconds": round(usage.decode_seconds, 6),
        }
        logger.info("request finished", extra=fields(**values))
        if self._spans is not None:
            self._spans.finished(last)

    def failed(self, code: str, message: str = "") -> None:
        """It ended with the gRPC status `code`."""
        values = {"code": code, "prompt_tokens": self._prompt_tokens, "tokens": self._tokens}
        if code in TOLD and message:
            values["reason"] = message
        level = logging.INFO if code in EXPECTED else logging.WARNING
        logger.log(level, "request failed", extra=fields(**values, seconds=self._seconds()))
        if self._spans is not None:
            self._spans.failed(code, self._tokens)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._begun, 6)
