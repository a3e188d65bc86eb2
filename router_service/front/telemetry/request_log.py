"""What the Front logs of each request: one line when a router has accepted it, one when it has ended.

No line holds a prompt or generated text.
"""

import logging
from typing import Any

from experts.host.log import fields
from router_service.front.routing.stream_queue import Arrival
from router_service.front.telemetry.request_record import RequestListener, RequestRecord

logger = logging.getLogger(__name__)

# Statuses whose messages are our own words; those of others may quote the client's input.
LOGGED_MESSAGES = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
# Ended by the client or its request: nothing that an operator should be warned of.
EXPECTED = ("INVALID_ARGUMENT", "CANCELLED", "DEADLINE_EXCEEDED")


class RequestLog(RequestListener):
    """Writes the log lines of every request."""

    def arrived(self, record: RequestRecord, arrival: Arrival) -> None:
        """Log that it is accepted, which the Front knows by the first token."""
        if record.submit is None or not 0 < record.received.tokens == len(arrival.output.token_ids):
            return
        values: dict[str, Any] = {
            "prompt_tokens": record.prompt_tokens,
            "max_tokens": record.submit.sampling.max_tokens,
        }
        if record.trace_id:
            values["trace_id"] = record.trace_id
        logger.info("request accepted", extra=fields(**values))

    def finished(self, record: RequestRecord) -> None:
        """Log the end of an answer."""
        timings = record.timings
        values: dict[str, Any] = {
            "finish": record.finish,
            "prompt_tokens": record.prompt_tokens,
            "tokens": record.answer.tokens,
            "seconds": round(record.seconds, 6),
            "queue_seconds": round(timings.queue_seconds, 6),
            "prefill_seconds": round(timings.prefill_seconds, 6),
            "decode_seconds": round(timings.decode_seconds, 6),
        }
        if len(record.finishes) > 1:
            values["answers"] = len(record.finishes)
        logger.info("request finished", extra=fields(**values))

    def failed(self, record: RequestRecord) -> None:
        """Log a failure; the message only if it cannot quote the client's input."""
        values = {"code": record.code, "prompt_tokens": record.prompt_tokens, "tokens": record.received.tokens}
        if record.code in LOGGED_MESSAGES and record.message:
            values["reason"] = record.message
        level = logging.INFO if record.code in EXPECTED else logging.WARNING
        logger.log(level, "request failed", extra=fields(**values, seconds=round(record.seconds, 6)))
