"""What a router logs of each request: its arrival and its end, never its content."""

import logging

from experts.host.log import fields
from router_service.engine.request import Event, Request

log = logging.getLogger(__name__)


def log_accepted(request: Request) -> None:
    """Log that the scheduler has accepted it; a refused request has only the line of `log_ended`."""
    values = {"prompt_tokens": request.prompt_length, "max_tokens": request.params.max_tokens}
    if request.generated:
        values["tokens_of_other_routers"] = request.generated
    log.info("request accepted", extra=fields(request_id=request.request_id, **values))


def log_ended(request: Request, event: Event) -> None:
    """Log how it ended, from its last event."""
    if event.failure is not None:
        values = {"code": event.failure.code, "reason": event.failure.message, "tokens": request.generated}
        log.warning("request failed", extra=fields(request_id=request.request_id, **values))
        return
    times = event.timings
    values = {"finish": event.finish, "prompt_tokens": request.prompt_length, "tokens": request.generated}
    if times is not None:
        names = ("queue_seconds", "prefill_seconds", "decode_seconds")
        values |= {name: round(getattr(times, name), 6) for name in names}
    log.info("request finished", extra=fields(request_id=request.request_id, **values))


def log_cancelled(request: Request) -> None:
    """Log that its Front cancelled it: the Front or its client disconnected, or the text met a stop string."""
    log.info("request cancelled", extra=fields(request_id=request.request_id, tokens=request.generated))
