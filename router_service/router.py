"""A router: the engine's thread, the Fronts it serves, the shards it asks, and a report about once a second."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from experts.config import ExpertsConfig
from experts.connector import ShardConnector, ShardLink
from experts.log import LoggingConfig, fields
from experts.transport.address import Endpoint
from experts.transport.secret import Secret
from experts.transport.socket import SocketTransport
from router_service.activity import ActivityMonitor
from router_service.engine import Engine, StepRecord
from router_service.families import Gauges, LinkGauges, MetricsConfig, router_families
from router_service.front_links import FrontLinks
from router_service.messages import Cancel, RouterHello, RouterReport, Submit, ToRouter, Watch
from router_service.reporting import shard_reports
from router_service.request import Event, Request
from router_service.request_log import log_accepted, log_cancelled, log_ended
from router_service.shard_families import shard_families
from router_service.statistics import Statistics
from router_service.step_log import StepLog
from router_service.step_summaries import StepSummaries
from router_service.totals import Window

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
IDLE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class RouterIdentity:
    """Who this router is, where it binds, and the secret of its deployment."""

    index: int
    replica: str
    model: str
    node: str
    host: str
    secret: Secret


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Facts for the memory series: parameters, and bytes of the router's weights without and with shared experts."""

    parameters_total: int
    parameters_active: int
    dense_bytes: int
    shared_expert_bytes: int
    load_seconds: float


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
        self._identity = identity
        self._sizes = sizes
        self._metrics = metrics
        self._inbox: queue.SimpleQueue[Callable[[], list[Event]]] = queue.SimpleQueue()
        self._keys = count(1)
        self._by_stream: dict[tuple[int, int], Request] = {}
        self._closing = threading.Event()
        self._report_due = threading.Event()
        self._beat = time.monotonic()
        self.statistics = Statistics(engine.pool.placement, engine.backbone.spec.layers)
        self._summaries = StepSummaries()
        self._step_log = StepLog(logs or LoggingConfig())
        engine.observe = self._observe
        limits = engine.scheduler.limits
        hello = RouterHello(identity.replica, limits.context, limits.prompt_limit)
        place = (identity.secret, identity.host, identity.node, identity.index)
        self.fronts = FrontLinks(hello, self._receive, self._lost, self._report_due.set, *place, experts.checksum)
        layers = sorted(engine.backbone.sparse_layers)
        self.activity = ActivityMonitor(
            identity.replica, self.statistics, layers, engine.pool.placement, self.fronts.tell
        )
        self.connector = ShardConnector(
            transport,
            experts.shards,
            shards,
            identity.secret,
            identity.node,
            experts.call_timeout_seconds,
            experts.checksum,
            changed=self._shards_changed,
        )
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._run, self._report_loop)]
        for thread in self._threads:
            thread.start()

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
        if not all(thread.is_alive() for thread in self._threads) or not self.fronts.alive():
            raise RuntimeError("the router's engine thread, its reporter or its listener has died")
        if time.monotonic() - self._beat > limit_s:
            raise RuntimeError(f"the router's engine has been in one step for over {limit_s:.0f} s")

    def close(self) -> None:
        """Stop the threads and hang up; requests in flight get no further word."""
        self._closing.set()
        self._report_due.set()
        self._wake()
        self.activity.close()
        self.fronts.close()
        self.connector.close()
        for thread in self._threads:
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
            if event.finish is not None or event.failure is not None:
                request = self._by_stream.pop((event.front, event.stream), None)
                if request is not None:
                    log_ended(request, event)
        if events:
            self.fronts.publish(events)

    def _report_loop(self) -> None:
        window = Window(self.statistics.totals, time.monotonic())
        while not self._closing.is_set():
            # A Front that has just come is told at once; it knows nothing of the cluster yet.
            self._report_due.wait(REPORT_SECONDS)
            self._report_due.clear()
            try:
                self.fronts.report(self._report(window))
            except Exception:
                log.exception("a report failed, the next one is due in a second")

    def _report(self, window: Window) -> RouterReport:
        self.statistics.settle()
        recent, seconds = window.advance(self.statistics.totals, time.monotonic())
        gauges = self._gauges()
        labels = {"model": self._identity.model}
        # What a shard said before it died is no longer so.
        statuses = {n: link.status for n, link in enumerate(self.connector.links) if self.connector.up(n)}
        own = router_families(
            self.statistics, recent, gauges, labels | {"router": self._identity.replica}, self._metrics
        )
        return RouterReport(
            router=self._identity.replica,
            running=gauges.running,
            waiting=gauges.waiting,
            kv_blocks_used=gauges.kv_blocks_used,
            kv_blocks_total=gauges.kv_blocks_total,
            decode_tokens_per_second=recent.decode_tokens / recent.step_seconds if recent.step_seconds else 0.0,
            overhead_ratio=recent.overhead_ratio,
            **self.statistics.imbalance(recent),
            shards=shard_reports(self.connector, recent, seconds),
            families=own + shard_families(statuses, labels),
        )

    def _gauges(self) -> Gauges:
        scheduler, sizes = self.engine.scheduler, self._sizes
        return Gauges(
            running=scheduler.running,
            waiting=scheduler.waiting,
            kv_blocks_used=scheduler.blocks.used,
            kv_blocks_total=scheduler.blocks.total,
            kv_bytes=self.engine.backbone.cache.nbytes,
            dense_bytes=sizes.dense_bytes,
            shared_expert_bytes=sizes.shared_expert_bytes,
            parameters_total=sizes.parameters_total,
            parameters_active=sizes.parameters_active,
            router_load_seconds=sizes.load_seconds,
            rejected=self.fronts.rejected,
            links=tuple(self._link(shard, link) for shard, link in enumerate(self.connector.links)),
        )

    def _link(self, shard: int, link: ShardLink) -> LinkGauges:
        return LinkGauges(
            replica=link.endpoint.replica if link.endpoint else "",
            up=self.connector.up(shard),
            restarts=link.restarts,
            reconnects=max(0, link.connects - 1),
            clock_error_s=self.engine.pool.transport.clock_error_s(shard),
        )
