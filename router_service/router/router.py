"""A router: the engine's thread, the Fronts it serves, the shards it asks, and a report about once a second."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from experts.config import ExpertsConfig
from experts.host.log import LoggingConfig, fields
from experts.transport.address import Endpoint
from experts.transport.connector import ShardConnector
from experts.transport.credentials import Credentials
from experts.transport.socket import SocketTransport
from router_service.config import MetricsConfig
from router_service.engine.engine import Engine, StepRecord
from router_service.engine.request import Event, Request
from router_service.metrics.collector import Statistics
from router_service.protocol.messages import Cancel, RouterHello, SamplingParams, Submit, ToRouter, Watch
from router_service.router.activity import ActivityMonitor
from router_service.router.front_connections import FrontLinks
from router_service.router.reporter import Labels, ModelSizes, Reporter
from router_service.router.request_log import log_accepted, log_cancelled, log_ended
from router_service.router.step_log import StepLog
from router_service.router.step_summaries import StepSummaries

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.05
LEAVE_POLL_SECONDS = 0.05
# No Front has this number: what the router asks of itself.
OURSELVES = 0


@dataclass(frozen=True, slots=True)
class RouterIdentity:
    """Who this router is, where it binds, and what it proves to its peers."""

    index: int
    replica: str
    model: str
    node: str
    host: str
    credentials: Credentials


class Router:
    """Serves `engine` to Fronts until `close`. All its threads are daemons."""

    def __init__(
        self,
        engine: Engine,
        transport: SocketTransport,
        shards: Callable[[], list[Endpoint]],
        identity: RouterIdentity,
        sizes: ModelSizes,
        experts: ExpertsConfig,
        metrics: MetricsConfig,
        logs: LoggingConfig | None = None,
    ) -> None:
        self.engine = engine
        self._inbox: queue.SimpleQueue[Callable[[], list[Event]]] = queue.SimpleQueue()
        self._keys = count(1)
        self._by_stream: dict[tuple[int, int], Request] = {}
        self._closing = threading.Event()
        self._report_due = threading.Event()
        self._proofs: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._proving = False
        self._beat = time.monotonic()
        self.statistics = Statistics(engine.pool.placement, engine.backbone.spec.layers)
        self._summaries = StepSummaries()
        self._step_log = StepLog(logs or LoggingConfig())
        engine.observe = self._observe
        limits = engine.scheduler.limits
        hello = RouterHello(identity.replica, limits.context, limits.prompt_limit)
        place = (identity.credentials, identity.host, identity.node, identity.index)
        self.fronts = FrontLinks(hello, self._receive, self._lost, self._report_due.set, *place, experts.checksum)
        layers = sorted(engine.backbone.sparse_layers)
        self.activity = ActivityMonitor(
            identity.replica, self.statistics, layers, engine.pool.placement, self.fronts.tell
        )
        self.connector = ShardConnector(
            transport,
            experts.shards,
            shards,
            identity.credentials,
            identity.node,
            experts.call_timeout_seconds,
            experts.checksum,
            changed=self._shards_changed,
        )
        self.reporter = Reporter(
            engine,
            self.connector,
            self.statistics,
            Labels(identity.model, identity.replica),
            sizes,
            metrics,
            lambda: self.fronts.rejected,
            self.fronts.report,
            self._report_due,
        )
        self._thread = threading.Thread(target=self._run, daemon=True, name="engine")
        self._thread.start()

    @property
    def endpoint(self) -> Endpoint:
        """Where Fronts connect."""
        return self.fronts.endpoint

    def ready(self) -> bool:
        """Whether every shard is connected."""
        return self.connector.connected()

    def check_health(self, limit_s: float) -> None:
        """Look at the engine's thread itself.

        Raises:
            RuntimeError: a thread has died, or the engine has not come round for `limit_s` seconds.
        """
        threads = (self._thread, self.reporter.thread)
        if not all(thread.is_alive() for thread in threads) or not self.fronts.alive():
            raise RuntimeError("the router's engine thread, its reporter or its listener has died")
        if time.monotonic() - self._beat > limit_s:
            raise RuntimeError(f"the router's engine has been in one step for over {limit_s:.0f} s")

    def prove(self, seconds: float) -> None:
        """Generate a token, through every layer and every shard; the statistics leave it out.

        Raises:
            RuntimeError: it could not be generated.
            TimeoutError: it was not within `seconds`.
        """
        params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
        asked = (next(self._keys), OURSELVES, 0, "proof", params, [0], 1, False, time.monotonic())
        self._proving = True
        try:
            self._inbox.put(lambda: self.engine.submit(Request(*asked)))
            event = self._proofs.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"the router did not generate its first token within {seconds:.0f} s") from None
        finally:
            self._proving = False
        if event.failure is not None:
            raise RuntimeError(f"the router cannot generate a token: {event.failure.message}")

    def leave(self, seconds: float) -> None:
        """Tell the Fronts to prefer other routers, and wait at most `seconds` until requests in flight have ended."""
        self.reporter.leaving = True
        self._report_due.set()
        deadline = time.monotonic() + seconds
        while self._by_stream and time.monotonic() < deadline:
            time.sleep(LEAVE_POLL_SECONDS)
        if self._by_stream:
            log.warning("requests outlive the router", extra=fields(requests=len(self._by_stream)))

    def close(self) -> None:
        """Stop the threads and hang up; requests in flight get no further word."""
        self._closing.set()
        self.reporter.close()
        self._wake()
        self.activity.close()
        self.fronts.close()
        self.connector.close()
        for thread in (self._thread, self.reporter.thread):
            thread.join(timeout=5)
        self.engine.pool.transport.close()

    def _receive(self, front: int, message: ToRouter) -> None:
        now = time.monotonic()
        if isinstance(message, Submit):
            self._inbox.put(lambda: self._submit(front, message, now))
        elif isinstance(message, Watch):
            self.activity.watch(front, message.seconds)
        else:
            self._inbox.put(lambda: self._cancel(front, message))

    def _observe(self, step: StepRecord) -> None:
        if self._proving:
            return
        self.statistics.observe(step)
        self._summaries.note(step)
        self._step_log.observe(step)
        self.activity.observe(step)

    def _lost(self, front: int) -> None:
        self.activity.forget(front)
        self._inbox.put(lambda: self._drop(front))

    def _shards_changed(self) -> None:
        self._wake()
        self._report_due.set()

    def _wake(self) -> None:
        self._inbox.put(list)

    def _submit(self, front: int, message: Submit, now: float) -> list[Event]:
        deadline = None if message.deadline_seconds is None else now + message.deadline_seconds
        request = Request(
            key=next(self._keys),
            front=front,
            stream=message.stream,
            request_id=message.request_id,
            params=message.sampling,
            tokens=[*message.prompt, *message.generated],
            prompt_length=len(message.prompt),
            return_routing=message.return_routing,
            return_scores=message.return_scores,
            arrived=now,
            deadline=deadline,
        )
        self._by_stream[front, message.stream] = request
        if message.traced:
            self._summaries.follow(request.key, self.engine.requests)
        log_accepted(request)
        return self.engine.submit(request)

    def _cancel(self, front: int, message: Cancel) -> list[Event]:
        request = self._by_stream.pop((front, message.stream), None)
        if request is not None:
            self._give_up(request)
        return []

    def _drop(self, front: int) -> list[Event]:
        places = [place for place in self._by_stream if place[0] == front]
        log.info("front %d has gone, its requests are given up", front, extra=fields(requests=len(places)))
        for place in places:
            self._give_up(self._by_stream.pop(place))
        return []

    def _give_up(self, request: Request) -> None:
        self.engine.cancel(request.key)
        log_cancelled(request)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._beat = time.monotonic()
            try:
                self._publish(self._take_in())
                events = self._summaries.attach(self.engine.step(), time.monotonic_ns())
                self._publish(events)
            except Exception:
                log.exception("a step failed")
                self._publish(self.engine.fail_all("INTERNAL", "the router's step failed, its log says why"))

    def _take_in(self) -> list[Event]:
        """Do what has come in; wait a little only if there is nothing else to do."""
        events: list[Event] = []
        wait = self.engine.idle() or not self.engine.progressed
        while True:
            try:
                work = self._inbox.get(block=wait, timeout=IDLE_SECONDS)
            except queue.Empty:
                return events
            events += work()
            wait = False

    def _publish(self, events: list[Event]) -> None:
        for event in events:
            if event.front == OURSELVES:
                self._proofs.put(event)
            elif event.finish is not None or event.failure is not None:
                request = self._by_stream.pop((event.front, event.stream), None)
                if request is not None:
                    log_ended(request, event)
        if events:
            self.fronts.publish(events)
