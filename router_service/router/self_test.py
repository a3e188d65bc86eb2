"""A router's self-test: a token through every layer and every shard, before the router is called ready."""

import queue
import time
from collections.abc import Callable

from router_service.engine.engine import Engine
from router_service.engine.faults.soundness import proof_request
from router_service.engine.request import Event
from router_service.router.inbox import Inbox

# Between two looks at whether to go on.
SLICE_SECONDS = 0.1


class SelfTest:
    """Asks the engine for a token as a Front would. While it is `running`, no step has another request in it."""

    def __init__(self, engine: Engine, inbox: Inbox) -> None:
        self.running = False
        self._engine = engine
        self._inbox = inbox
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def on_event(self, event: Event) -> None:
        """Take an event of the router's own request."""
        self._events.put(event)

    def run(self, seconds: float, go_on: Callable[[], None] = lambda: None) -> None:
        """Generate a token.

        Args:
            go_on: called several times a second while the token is waited for; what it raises ends the wait.

        Raises:
            RuntimeError: no token could be generated.
            TimeoutError: no token came within `seconds`.
        """
        event = self._generate(seconds, go_on)
        if event.failure is not None:
            raise RuntimeError(f"the router cannot generate a token: {event.failure.message}")

    def _generate(self, seconds: float, go_on: Callable[[], None]) -> Event:
        request = proof_request(self._engine.requests.new_key(), self._engine.clock())
        # Before the request, or its first step could be observed.
        self.running = True
        try:
            self._inbox.put(lambda: self._engine.submit(request))
            return self._wait(time.monotonic() + seconds, go_on)
        except queue.Empty:
            raise TimeoutError(f"the router did not generate its first token within {seconds:.0f} s") from None
        finally:
            self.running = False

    def _wait(self, deadline: float, go_on: Callable[[], None]) -> Event:
        """Return the event; `queue.Empty` where it is not there by `deadline`, which is of the monotonic clock."""
        while True:
            go_on()
            left = deadline - time.monotonic()
            try:
                return self._events.get(timeout=min(SLICE_SECONDS, max(left, 0.0)))
            except queue.Empty:
                if left <= SLICE_SECONDS:
                    raise
