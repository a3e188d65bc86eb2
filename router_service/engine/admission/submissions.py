"""Queues requests, at once or when their grammars are compiled."""

import logging

from experts.host.log import fields
from router_service.engine.admission.constraints import Constraints
from router_service.engine.failures import broken, failed, refused
from router_service.engine.request import Event, Request
from router_service.engine.request_table import RequestTable
from router_service.engine.scheduling.limits import NeverFitsError
from router_service.engine.scheduling.queue_bounds import QueueFullError
from router_service.engine.scheduling.scheduler import Scheduler
from router_service.protocol.messages import StreamFailure

log = logging.getLogger(__name__)


class Submissions:
    """Used on the engine's thread."""

    def __init__(self, requests: RequestTable, scheduler: Scheduler, constraints: Constraints) -> None:
        self._requests = requests
        self._scheduler = scheduler
        self._constraints = constraints

    def submit(self, request: Request) -> list[Event]:
        """Accept a request, or return the event that refuses it."""
        # First: a refused request has a last event too, and its publisher looks it up here.
        self._requests.add(request)
        if request.params.structured is not None:
            self._constraints.begin(request)
            return []
        return self._queue(request)

    def queue_compiled(self) -> list[Event]:
        """Queue the requests whose grammars have been compiled; return the last events of those that cannot be."""
        events: list[Event] = []
        for request, found in self._constraints.opened():
            if request.ended or self._requests.get(request.key) is not request:  # cancelled or overdue meanwhile
                continue
            if isinstance(found, StreamFailure):
                self._requests.end(request)
                events.append(failed(request, found.code, found.message))
            else:
                request.row.matcher = found
                events += self._queue_alone(request)
        return events

    def _queue(self, request: Request) -> list[Event]:
        try:
            self._scheduler.submit(request.sequence)
        except (NeverFitsError, QueueFullError) as error:
            self._requests.end(request)
            return [refused(request, error)]
        return []

    def _queue_alone(self, request: Request) -> list[Event]:
        """What is raised for one that was accepted before ends it alone."""
        try:
            return self._queue(request)
        except Exception as error:
            log.exception("a request could not be queued", extra=fields(request_id=request.request_id))
            self._requests.end(request)
            self._scheduler.remove(request.key)
            return [broken(request, error)]
