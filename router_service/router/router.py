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
from experts.host.watched_thread import ThreadWatch
from experts.transport.address import Endpoint
from experts.transport.connector import ShardConnector
from experts.transport.credentials import Credentials
from experts.transport.socket import SocketTransport
from router_service.config import MetricsConfig
from router_service.engine.engine import Engine, StepRecord
from router_service.engine.request import Event, Request
from router_service.metrics.collector import Statistics
from router_service.protocol.messages import Cancel, RouterHello, SamplingParams, StreamFailure, Submit, ToRouter, Watch
from router_service.router.activity import ActivityMonitor
from router_service.router.front_connections import FrontConnections
from router_service.router.reporter import Labels, ModelSizes, Reporter
from router_service.router.request_log import log_accepted, log_cancelled, log_ended
from router_service.router.step_log import StepLog
from router_service.router.step_summaries import StepSummaries

log = logging.getLogger(__name__)

IDLE_SECONDS = 0.05
LEAVE_POLL_SECONDS = 0.05
# Kinds of threads that are counted from 0 on, or an alert would miss the first that fails.
THREADS = ("engine", "reporter", "activity", "shard connector", "listener", "connection", "front writer")
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
    """Serves `engine` to Fronts until `close`. All its threads are daemons, started by `threads`.

    A request ends in exactly one reply, whatever raises: what the engine said before a fault is published, then the
    rest fails; where it cannot be published, its Front is hung up on and goes on elsewhere.
    """

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
        threads: ThreadWatch | None = None,
    ) -> None:
        self.engine = engine
        self._inbox: queue.SimpleQueue[Callable[[], list[Event]]] = queue.SimpleQueue()
        self._keys = count(1)
        self._by_stream: dict[tuple[int, int], Request] = {}
        self._closing = threading.Event()
        self._report_due = threading.Event()
        self._proofs: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._proving = False
        self.threads = threads or ThreadWatch()
        self.threads.count_from_zero(THREADS)
        self.statistics = Statistics(engine.pool.placement, engine.backbone.spec.layers)
        self._summaries = StepSummaries()
        self._step_log = StepLog(logs or LoggingConfig())
        engine.observe = self._observe
        limits = engine.scheduler.limits
        hello = RouterHello(identity.replica, limits.context, limits.prompt_limit)
        self.fronts = FrontConnections(
            hello=hello,
            receive=self._receive,
            lost=self._lost,
            joined=self._report_due.set,
            credentials=identity.credentials,
            host=identity.host,
            node=identity.node,
            index=identity.index,
            checksum=experts.checksum,
            threads=self.threads,
        )
        layers = sorted(engine.backbone.sparse_layers)
        self.activity = ActivityMonitor(
            identity.replica, self.statistics, layers, engine.pool.placement, self.fronts.tell, self.threads
        )
        self._observers = {
            "statistics": self.statistics.observe,
            "summaries": self._summaries.note,
            "step_log": self._step_log.observe,
            "activity": self.activity.observe,
        }
        self.connector = ShardConnector(
            transport,
            experts.shards,
            shards,
            identity.credentials,
            identity.node,
            experts.call_timeout_seconds,
            experts.checksum,
            changed=self._shards_changed,
            threads=self.threads,
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
            self.threads,
        )
        self._thread = self.threads.start("engine", self._run, lasts_until=self._closing.is_set)

    @property
    def endpoint(self) -> Endpoint:
        """Where Fronts connect."""
        return self.fronts.endpoint

    def ready(self) -> bool:
        """Whether every shard is connected."""
        return self.connector.connected()

    def check_health(self, limit_s: float) -> None:
        """Look at the threads themselves.

        Raises:
            RuntimeError: a thread that must last has died, or the engine has got no further for `limit_s` seconds. A
                step may take longer than that, as long as its layers do not.
        """
        self.threads.check()
        if not self.fronts.alive():
            raise RuntimeError("the router's listener has been closed")
        if self.engine.progress.still_s() > limit_s:
            raise RuntimeError(f"the router's engine has got no further for over {limit_s:.0f} s")

    def prove(self, seconds: float) -> None:
        """Generate a token, through every layer and every shard; the statistics leave it out.

        Raises:
            RuntimeError: it could not be generated.
            TimeoutError: it was not within `seconds`.
        """
        params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
        request = Request(
            key=next(self._keys),
            front=OURSELVES,
            stream=0,
            request_id="proof",
            params=params,
            tokens=[0],
            prompt_length=1,
            return_routing=False,
            arrived=time.monotonic(),
        )
        self._proving = True
        try:
            self._inbox.put(lambda: self.engine.submit(request))
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
        for name, observe in self._observers.items():
            with self.engine.guard(name):
                observe(step)

    def _lost(self, front: int) -> None:
        self.activity.forget(front)
        self._inbox.put(lambda: self._drop(front))

    def _shards_changed(self) -> None:
        self._wake()
        self._report_due.set()

    def _wake(self) -> None:
        self._inbox.put(list)

    def _submit(self, front: int, message: Submit, now: float) -> list[Event]:
        key = next(self._keys)
        try:
            return self._take(_request_of(key, front, message, now), message.traced)
        except Exception:
            log.exception("a request could not be taken in", extra=fields(request_id=message.request_id))
            self.engine.cancel(key)
            failure = StreamFailure("INTERNAL", "the router could not take the request in, its log says why")
            return [Event(key=key, front=front, stream=message.stream, token=None, failure=failure)]

    def _take(self, request: Request, traced: bool) -> list[Event]:
        self._by_stream[request.front, request.stream] = request
        if refusal := self.engine.submit(request):
            return refusal
        if traced:
            with self.engine.guard("summaries"):
                self._summaries.follow(request.key, self.engine.requests)
        with self.engine.guard("request_log"):
            log_accepted(request)
        return []

    def _cancel(self, front: int, message: Cancel) -> list[Event]:
        request = self._by_stream.pop((front, message.stream), None)
        if request is not None:
            self._give_up(request)
        return []

    def _drop(self, front: int) -> list[Event]:
        places = [place for place in self._by_stream if place[0] == front]
        for place in places:
            self._give_up(self._by_stream.pop(place))
        log.info("front %d has gone, its requests are given up", front, extra=fields(requests=len(places)))
        return []

    def _give_up(self, request: Request) -> None:
        try:
            self.engine.cancel(request.key)
        except Exception:
            log.exception("a request was given up, its blocks could not be freed")
        with self.engine.guard("request_log"):
            log_cancelled(request)

    def _run(self) -> None:
        while not self._closing.is_set():
            self.engine.progress.move()
            self._publish(self._take_in())
            events = self.engine.step()
            with self.engine.guard("summaries"):
                events = self._summaries.attach(events, time.monotonic_ns())
            self._publish(events)

    def _take_in(self) -> list[Event]:
        """Do what has come in; wait a little only if there is nothing else to do."""
        events: list[Event] = []
        wait = self.engine.idle() or not self.engine.progressed
        while True:
            try:
                work = self._inbox.get(block=wait, timeout=IDLE_SECONDS)
            except queue.Empty:
                return events
            try:
                events += work()
            except Exception:
                log.exception("what a Front asked for could not be done")
            wait = False

    def _publish(self, events: list[Event]) -> None:
        for event in events:
            if event.front == OURSELVES:
                self._proofs.put(event)
            elif event.finish is not None or event.failure is not None:
                request = self._by_stream.pop((event.front, event.stream), None)
                if request is not None:
                    with self.engine.guard("request_log"):
                        log_ended(request, event)
        if not events:
            return
        try:
            self.fronts.publish(events)
        except Exception:
            log.exception("a step's events could not be published, their Fronts are hung up on")
            for front in {event.front for event in events}:
                self.fronts.hang_up(front)


def _request_of(key: int, front: int, message: Submit, now: float) -> Request:
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
        arrived=now,
        deadline=None if message.deadline_seconds is None else now + message.deadline_seconds,
    )
