"""Sends a step's events to the Fronts that wait for them, and removes requests whose last event that was."""

import logging

from router_service.engine.engine import Engine
from router_service.engine.request import OURSELVES, Event
from router_service.router.front_connections import FrontConnections
from router_service.router.request_log import log_ended
from router_service.router.self_test import SelfTest

log = logging.getLogger(__name__)


class Publisher:
    """Used on the engine's thread. Fronts whose events cannot be published are disconnected and resubmit elsewhere."""

    def __init__(self, engine: Engine, fronts: FrontConnections, self_test: SelfTest) -> None:
        self._engine = engine
        self._fronts = fronts
        self._self_test = self_test

    def publish(self, events: list[Event]) -> None:
        """Send the events to their Fronts, or to the self-test."""
        for event in events:
            if event.front == OURSELVES:
                self._self_test.on_event(event)
            elif event.finish is not None or event.failure is not None:
                self._end(event)
        if events:
            self._send(events)

    def _end(self, event: Event) -> None:
        request = self._engine.requests.forget(event.key)
        if request is not None:
            with self._engine.guard("request_log"):
                log_ended(request, event)

    def _send(self, events: list[Event]) -> None:
        try:
            self._fronts.publish(events)
        except Exception:
            # A stream must not miss tokens silently: without its connection the Front resubmits with what it has.
            log.exception("a step's events could not be published, their Fronts are disconnected")
            for front in {event.front for event in events}:
                self._fronts.disconnect(front)
