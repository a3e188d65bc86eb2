"""What Fronts ask of a router: to accept a request, to cancel one, and to cancel all when a Front has disconnected.

Each is called on a Front's thread and hands the work to the engine's thread.
"""

import logging

from experts.host.log import fields
from router_service.engine.engine import Engine
from router_service.engine.request import Event, Request
from router_service.protocol.fallback import Fallback
from router_service.protocol.messages import Cancel, StreamFailure, Submit
from router_service.protocol.submit_checks import InvalidSubmitError, check_submit
from router_service.router.inbox import Inbox
from router_service.router.request_log import log_accepted, log_cancelled
from router_service.router.step_summaries import StepSummaries

log = logging.getLogger(__name__)


class RouterRequests:
    """Adds requests to the engine's table, and removes those that are cancelled."""

    def __init__(self, engine: Engine, inbox: Inbox, summaries: StepSummaries) -> None:
        self._engine = engine
        self._inbox = inbox
        self._summaries = summaries

    def submit(self, front: int, message: Submit) -> None:
        """Accept a request of a Front."""
        # Here, not on the engine's thread: the time in the inbox counts as queueing and against the deadline.
        now = self._engine.clock()
        self._inbox.put(lambda: self._submit(front, message, now))

    def cancel(self, front: int, message: Cancel) -> None:
        """Cancel one of a Front's streams."""
        self._inbox.put(lambda: self._cancel(front, message.stream))

    def drop(self, front: int) -> None:
        """Cancel all streams of a Front that has disconnected."""
        self._inbox.put(lambda: self._drop(front))

    def _submit(self, front: int, message: Submit, now: float) -> list[Event]:
        key = self._engine.requests.new_key()
        try:
            check_submit(message, self._engine.backbone.spec.vocabulary)
            fallback = Fallback(message.fallback or self._engine.default_fallback)
            return self._take(_request_of(key, front, message, now, fallback), message.traced)
        except InvalidSubmitError as error:
            failure = StreamFailure("INVALID_ARGUMENT", str(error))
            return [Event(key=key, front=front, stream=message.stream, token=None, failure=failure)]
        except Exception:
            log.exception("a request could not be accepted", extra=fields(request_id=message.request_id))
            # Whatever part of it was accepted must not stay and hold blocks.
            self._engine.release(key)
            failure = StreamFailure("INTERNAL", "the router could not accept the request, see its log")
            return [Event(key=key, front=front, stream=message.stream, token=None, failure=failure)]

    def _take(self, request: Request, traced: bool) -> list[Event]:
        if refusal := self._engine.submit(request):
            return refusal
        if traced:
            with self._engine.guard("summaries"):
                self._summaries.follow(request)
        with self._engine.guard("request_log"):
            log_accepted(request)
        return []

    def _cancel(self, front: int, stream: int) -> list[Event]:
        if (request := self._engine.requests.of_stream(front, stream)) is not None:
            self._cancel_request(request)
        return []

    def _drop(self, front: int) -> list[Event]:
        requests = self._engine.requests.of_front(front)
        for request in requests:
            self._cancel_request(request)
        log.info("front %d has disconnected, its requests are cancelled", front, extra=fields(requests=len(requests)))
        return []

    def _cancel_request(self, request: Request) -> None:
        try:
            self._engine.cancel(request.key)
        except Exception:
            log.exception("a cancelled request's blocks could not be freed")
        with self._engine.guard("request_log"):
            log_cancelled(request)


def _request_of(key: int, front: int, message: Submit, now: float, fallback: Fallback) -> Request:
    return Request(
        key=key,
        front=front,
        stream=message.stream,
        request_id=message.request_id,
        params=message.sampling,
        tokens=[*message.prompt, *message.generated],
        prompt_length=len(message.prompt),
        return_routing=message.return_routing,
        return_scores=message.return_scores,
        routed=message.reported,
        priority=message.priority,
        caller=message.caller,
        cache_salt=message.cache_salt,
        fallback=fallback,
        arrived=now,
        deadline=None if message.deadline_seconds is None else now + message.deadline_seconds,
    )
