"""What a router reports to its Fronts about once a second: the cluster as it sees it, and its metrics."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from experts.host.watched_thread import ThreadWatch
from experts.watch.connector import ShardConnection, ShardConnector
from router_service.config import MetricsConfig
from router_service.engine.engine import Engine
from router_service.metrics.collector import Statistics
from router_service.metrics.router_series import ConnectionGauges, Gauges, router_series
from router_service.metrics.shard_series import shard_series
from router_service.metrics.windows import Window
from router_service.protocol.messages import RouterReport
from router_service.router.reporting.failure_view import FailureView
from router_service.router.reporting.shard_reports import shard_reports

log = logging.getLogger(__name__)

# Scrapes are less frequent, and building the series costs time beside the engine.
REPORT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """Facts for the memory series: parameters, and bytes of the router's weights without and with shared experts."""

    parameters_total: int
    parameters_active: int
    dense_bytes: int
    shared_expert_bytes: int
    load_seconds: float


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of the series: model and router."""

    model: str
    router: str


class Reporter:
    """Makes reports on a thread of its own and passes each to `send`, until `close`.

    Args:
        rejected: returns how many connections the router has closed, by reason.
        due: set to request a report at once: something has changed, or a Front has just connected.
        threads: the threads of this process, to which the reporter's is added.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        connector: ShardConnector,
        statistics: Statistics,
        labels: Labels,
        sizes: ModelSizes,
        metrics: MetricsConfig,
        rejected: Callable[[], dict[str, int]],
        send: Callable[[RouterReport], None],
        due: threading.Event,
        threads: ThreadWatch,
    ) -> None:
        self.leaving = False
        self._engine = engine
        self._connector = connector
        self._statistics = statistics
        self._failures = FailureView(engine, connector)
        self._labels = labels
        self._sizes = sizes
        self._metrics = metrics
        self._rejected = rejected
        self._send = send
        self._due = due
        self._threads = threads
        self._closing = False
        self.thread = threads.start("reporter", self._run, lasts_until=lambda: self._closing)

    def close(self) -> None:
        """Stop reporting; the thread ends soon after."""
        self._closing = True
        self._due.set()

    def report(self, window: Window) -> RouterReport:
        """Advance `window` and return a report; rates are over the window."""
        self._statistics.flush()
        recent, seconds = window.advance(self._statistics.cumulative, time.monotonic())
        connector, gauges, labels = self._connector, self._gauges(), {"model": self._labels.model}
        # The last status of a shard that has died is out of date.
        statuses = {n: connection.status for n, connection in enumerate(connector.connections) if connector.up(n)}
        named = labels | {"router": self._labels.router}
        return RouterReport(
            router=self._labels.router,
            running=gauges.running,
            waiting=gauges.waiting,
            kv_blocks_used=gauges.kv_blocks_used,
            kv_blocks_total=gauges.kv_blocks_total,
            decode_tokens_per_second=recent.decode_tokens / recent.step_seconds if recent.step_seconds else 0.0,
            overhead_ratio=recent.overhead_ratio,
            **self._statistics.imbalance(recent),
            shards=shard_reports(connector, gauges.failure, recent, seconds),
            metric_families=router_series(self._statistics, recent, gauges, named, self._metrics)
            + shard_series(statuses, labels),
            ready=not gauges.failure.unavailable and self._engine.sound,
            leaving=self.leaving,
            step_seconds=recent.step_seconds,
            failovers=self._failures.recent(),
            degraded_tokens=gauges.failure.degraded_tokens,
            unavailable_experts=gauges.failure.unavailable,
            epoch=gauges.failure.epoch,
        )

    def _run(self) -> None:
        window = Window(self._statistics.cumulative, time.monotonic())
        while not self._closing:
            self._due.wait(REPORT_SECONDS)
            # Before the report is made: a change during it then leads to another report.
            self._due.clear()
            try:
                self._send(self.report(window))
            except Exception:
                log.exception("a report failed, the next one is due in a second")

    def _gauges(self) -> Gauges:
        scheduler, sizes = self._engine.scheduler, self._sizes
        return Gauges(
            running=scheduler.running,
            waiting=scheduler.waiting,
            kv_blocks_used=scheduler.blocks.fullest.used,
            kv_blocks_total=scheduler.blocks.fullest.total,
            preemptions=scheduler.preemptions,
            prefix_cache_queries=scheduler.cache_queries,
            prefix_cache_hits=scheduler.cache_hits,
            kv_bytes=self._engine.backbone.cache.nbytes,
            dense_bytes=sizes.dense_bytes,
            shared_expert_bytes=sizes.shared_expert_bytes,
            parameters_total=sizes.parameters_total,
            parameters_active=sizes.parameters_active,
            router_load_seconds=sizes.load_seconds,
            rejected=self._rejected(),
            thread_failures=self._threads.failures,
            observer_failures=dict(self._engine.guard.faults),
            nonfinite_logits=self._engine.nonfinite_logits,
            failure=self._failures.gauges(),
            constraints=self._engine.constraints.figures,
            request_faults=self._engine.request_faults,
            sound=self._engine.sound,
            connections=tuple(map(self._connection, count(), self._connector.connections)),
        )

    def _connection(self, shard: int, connection: ShardConnection) -> ConnectionGauges:
        return ConnectionGauges(
            replica=connection.endpoint.replica if connection.endpoint else "",
            up=self._connector.up(shard),
            restarts=connection.restarts,
            reconnects=max(0, connection.connects - 1),
            clock_error_s=self._engine.pool.transport.clock_error_s(shard),
        )
