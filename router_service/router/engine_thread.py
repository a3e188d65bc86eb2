"""The thread that drives a router's engine. Each turn handles the inbox, runs a step and publishes its events."""

import threading
import time
from collections.abc import Callable

from experts.host.watched_thread import ThreadWatch
from router_service.engine.engine import Engine
from router_service.router.inbox import Inbox
from router_service.router.publisher import Publisher
from router_service.router.step_summaries import StepSummaries


class EngineThread:
    """Runs from the start until `stop`. Nothing else touches the engine's requests.

    `turned` is called after a step that has found the engine unsound, or sound again.
    """

    def __init__(
        self,
        engine: Engine,
        inbox: Inbox,
        summaries: StepSummaries,
        publisher: Publisher,
        threads: ThreadWatch,
        turned: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._inbox = inbox
        self._summaries = summaries
        self._publisher = publisher
        self._turned = turned
        self._closing = threading.Event()
        self._thread = threads.start("engine", self._run, lasts_until=self._closing.is_set)

    def check(self, limit_s: float) -> None:
        """Check that the engine makes progress, and can compute at all.

        Raises:
            RuntimeError: no layer has completed for `limit_s` seconds. A whole step may take longer than that. Or every
                request of several steps failed, and one that any router can compute did too: see `Soundness`.
        """
        if self._engine.progress.still_s() > limit_s:
            raise RuntimeError(f"the router's engine has made no progress for over {limit_s:.0f} s")
        if not self._engine.sound:
            raise RuntimeError("the router's engine fails whatever it is given, see its log")

    def stop(self) -> None:
        """End the thread after the current step."""
        self._closing.set()
        self._inbox.wake()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout=seconds)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._run_once()

    def _run_once(self) -> None:
        """Wait for work only if there is nothing else to do."""
        engine, sound = self._engine, self._engine.sound
        engine.progress.move()
        # A step in which all sequences are stalled schedules nothing: without the wait the loop would spin until the
        # shard is back.
        self._publisher.publish(self._inbox.run_queued(wait=engine.idle() or not engine.progressed))
        events = engine.step()
        # Summaries only watch: a fault in them must not keep tokens from being published.
        with engine.guard("summaries"):
            events = self._summaries.attach(events, time.monotonic_ns())
        self._publisher.publish(events)
        if engine.sound != sound:
            self._turned()
