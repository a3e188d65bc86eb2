"""The thread that drives a router's engine: what has come in, a step, what is to be said, and again."""

import threading
import time

from experts.host.watched_thread import ThreadWatch
from router_service.engine.engine import Engine
from router_service.router.inbox import Inbox
from router_service.router.publisher import Publisher
from router_service.router.step_summaries import StepSummaries


class EngineThread:
    """Runs from the start until `stop`. Nothing else touches the engine's requests."""

    def __init__(
        self, engine: Engine, inbox: Inbox, summaries: StepSummaries, publisher: Publisher, threads: ThreadWatch
    ) -> None:
        self._engine = engine
        self._inbox = inbox
        self._summaries = summaries
        self._publisher = publisher
        self._closing = threading.Event()
        self._thread = threads.start("engine", self._run, lasts_until=self._closing.is_set)

    def check(self, limit_s: float) -> None:
        """Tell a step that is long from one that hangs.

        Raises:
            RuntimeError: the engine has got no further for `limit_s` seconds. A step may take longer than that, as long
                as its layers do not.
        """
        if self._engine.progress.still_s() > limit_s:
            raise RuntimeError(f"the router's engine has got no further for over {limit_s:.0f} s")

    def stop(self) -> None:
        """End the thread behind the step that it is in."""
        self._closing.set()
        self._inbox.wake()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout=seconds)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._turn()

    def _turn(self) -> None:
        """Wait for work only if there is nothing else to do."""
        engine = self._engine
        engine.progress.move()
        self._publisher.publish(self._inbox.work_off(wait=engine.idle() or not engine.progressed))
        events = engine.step()
        with engine.guard("summaries"):
            events = self._summaries.attach(events, time.monotonic_ns())
        self._publisher.publish(events)
