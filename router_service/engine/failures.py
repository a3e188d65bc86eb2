"""The last events of requests that fail."""

from router_service.engine.request import Event, Request
from router_service.engine.scheduling.limits import NeverFitsError
from router_service.engine.scheduling.queue_bounds import QueueFullError
from router_service.protocol.messages import StreamFailure

# A stalled request fails this long before its deadline, so that the caller still receives the reason.
DEADLINE_MARGIN_SECONDS = 0.2


def failed(request: Request, code: str, message: str) -> Event:
    """Return the last event of a request that fails."""
    failure = StreamFailure(code, message)
    return Event(key=request.key, front=request.front, stream=request.stream, token=None, failure=failure)


def broken(request: Request, error: Exception) -> Event:
    """Return the last event of a request for which something raised `error`."""
    return failed(request, "INTERNAL", f"the router cannot compute this request ({type(error).__name__}), see its log")


def refused(request: Request, error: NeverFitsError | QueueFullError) -> Event:
    """Return the last event of a request that the scheduler refuses."""
    code = "INVALID_ARGUMENT" if isinstance(error, NeverFitsError) else "RESOURCE_EXHAUSTED"
    return failed(request, code, str(error))


def overdue(request: Request, now: float, unavailable_wait_s: float) -> Event | None:
    """Return the last event of a request that has waited too long by `now`, else None; a stalled one may wait
    `unavailable_wait_s`."""
    left = float("inf") if request.deadline is None else request.deadline - now
    if request.stalled_since:
        if now - request.stalled_since > unavailable_wait_s or left < DEADLINE_MARGIN_SECONDS:
            return failed(request, "UNAVAILABLE", request.stalled_by)
    elif left < 0:
        return failed(request, "DEADLINE_EXCEEDED", "the deadline passed before the last token")
    return None
