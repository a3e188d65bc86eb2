"""What the Front logs of each request: a line when a router has taken it, one when it has ended.

No line holds a prompt or generated text.
"""

import logging
from typing import Any

from experts.host.log import fields
from router_service.front.routing.stream_queue import Arrival
from router_service.front.telemetry.request_record import RequestListener, RequestRecord

logger = logging.getLogger(__name__)

# Statuses whose messages are words of our own; others may quote what the client sent.
TOLD = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
EXPECTED = ("INVALID_ARGUMENT", "CANCELLED", "DEADLINE_EXCEEDED")


class RequestLog(RequestListener):
    """Writes the lines of every request."""

    def arrived(self, record: RequestRecord, arrival: Arrival) -> None:
        """Log that it is accepted: the first token is how the Front knows that a router has taken it."""
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
        """Log how it went."""
        timings = record.timings
        values = {
            "finish": record.finish,
            "prompt_tokens": record.prompt_tokens,
            "tokens": record.answer.tokens,
            "seconds": round(record.seconds, 6),
            "queue_seconds": round(timings.queue_seconds, 6),
            "prefill_seconds": round(timings.prefill_seconds, 6),
            "decode_seconds": round(timings.decode_seconds, 6),
        }
        logger.info("request finished", extra=fields(**values))

    def failed(self, record: RequestRecord) -> None:
        """Log why it ended, in our own words only."""
        values = {"code": record.code, "prompt_tokens": record.prompt_tokens, "tokens": record.received.tokens}
        if record.code in TOLD and record.message:
            values["reason"] = record.message
        level = logging.INFO if record.code in EXPECTED else logging.WARNING
        logger.log(level, "request failed", extra=fields(**values, seconds=round(record.seconds, 6)))
