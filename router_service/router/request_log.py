"""What a router logs of each request: that it came, how it ended. Never what is in it."""

import logging

from experts.host.log import fields
from router_service.engine.request import Event, Request

log = logging.getLogger(__name__)


def log_accepted(request: Request) -> None:
    """The scheduler has taken it; one that is refused has `log_ended` alone."""
    values = {"prompt_tokens": request.prompt_length, "max_tokens": request.params.max_tokens}
    if request.generated:
        values["tokens_of_other_routers"] = request.generated
    log.info("request accepted", extra=fields(request_id=request.request_id, **values))


def log_ended(request: Request, event: Event) -> None:
    """Its last event is this one."""
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
    """Its Front has no use for it any more: it is gone, or its client is, or it has found a stop string."""
    log.info("request cancelled", extra=fields(request_id=request.request_id, tokens=request.generated))
