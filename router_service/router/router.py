"""A router: the engine's thread, the Fronts it serves, the shards it calls, and a report about once a second."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from experts.config import ExpertsConfig
from experts.costs import ShardCosts
from experts.host.log import LoggingConfig, fields
from experts.host.watched_thread import ThreadWatch
from experts.links.state import LinkState
from experts.placement import Placement
from experts.transport.address import Endpoint
from experts.transport.socket import SocketTransport
from experts.watch.connector import ShardConnector
from router_service.config import MetricsConfig
from router_service.engine.engine import Engine
from router_service.engine.request import Event
from router_service.metrics.collector import Statistics
from router_service.metrics.load_sampler import LoadSampler
from router_service.protocol.messages import RouterHello, Submit, ToRouter, Watch
from router_service.router.activity import ActivityMonitor
from router_service.router.engine_thread import EngineThread
from router_service.router.front_connections import FrontConnections
from router_service.router.identity import RouterIdentity
from router_service.router.inbox import Inbox
from router_service.router.publisher import Publisher
from router_service.router.reporting.failure_view import reaches_all
from router_service.router.reporting.reporter import Labels, ModelSizes, Reporter
from router_service.router.router_requests import RouterRequests
from router_service.router.self_test import SelfTest
from router_service.router.step_log import StepLog
from router_service.router.step_observers import StepObservers
from router_service.router.step_summaries import StepSummaries

log = logging.getLogger(__name__)

LEAVE_POLL_SECONDS = 0.05
# Shards are looked up once a second, and dialled within milliseconds.
REACH_SECONDS = 3.0
JOIN_SECONDS = 5
# Kinds of threads whose failures are counted from 0 on: else an alert on the increase would miss the first.
THREADS = (
    "engine",
    "reporter",
    "activity",
    "shard connector",
    "shard watcher",
    "shard dialler",
    "listener",
    "connection",
    "front writer",
)


class Router:
    """Serves `engine` to Fronts until `close`. All its threads are daemons, started by `threads`.

    A request ends in exactly one reply, whatever raises: events made before a fault are published, then the remaining
    requests fail. If events cannot be published, their Front is disconnected and resubmits its requests elsewhere.

    Args:
        missed: called when a shard does not hold what the placement says; returns at once.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        transport: SocketTransport,
        shards: Callable[[], list[Endpoint]],
        identity: RouterIdentity,
        sizes: ModelSizes,
        experts: ExpertsConfig,
        metrics: MetricsConfig,
        logs: LoggingConfig | None = None,
        threads: ThreadWatch | None = None,
        missed: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine = engine
        engine.pool.on_miss(missed)
        engine.constraints.on_opened(lambda: self._inbox.wake())
        self.threads = threads or ThreadWatch()
        self.threads.count_from_zero(THREADS)
        self._report_due = threading.Event()
        self._inbox = Inbox()
        self.self_test = SelfTest(engine, self._inbox)
        self.summaries = StepSummaries(engine.requests)
        self.requests = RouterRequests(engine, self._inbox, self.summaries)
        self.statistics = Statistics(self._placement, engine.backbone.spec.layers, self._learn)
        self.loads = self._sample_loads(identity)
        self.fronts = self._accept_fronts(identity, experts)
        self.activity = self._watch_activity(identity)
        engine.observe = self._observers(StepLog(logs or LoggingConfig())).observe
        self.connector = self._connect_shards(transport, shards, identity, experts)
        self.reporter = self._report(identity, sizes, metrics)
        publisher = Publisher(engine, self.fronts, self.self_test)
        # Last: the thread steps at once, and by then all that a step calls must exist.
        self._engine_thread = EngineThread(
            engine, self._inbox, self.summaries, publisher, self.threads, self._report_due.set
        )

    @property
    def endpoint(self) -> Endpoint:
        """Where Fronts connect."""
        return self.fronts.endpoint

    def ready(self) -> bool:
        """Whether every expert can be asked for (with copies a shard may be missing) and the engine can compute."""
        return reaches_all(self.engine.pool.placement, self.connector) and self.engine.sound

    def complete(self) -> bool:
        """Whether every shard that holds experts is connected."""
        return all(map(self.connector.up, self._placement().holding))

    def check_health(self, limit_s: float) -> None:
        """Check the threads and the engine's progress.

        Raises:
            RuntimeError: a thread that must not end has ended, or the engine hangs or fails whatever it is given: see
                `EngineThread.check`.
        """
        self.threads.check()
        if not self.fronts.alive():
            raise RuntimeError("the router's listener has been closed")
        self._engine_thread.check(limit_s)

    def run_self_test(self, seconds: float, go_on: Callable[[], None] = lambda: None) -> None:
        """Generate a token through every layer and shard, not counted in the statistics. Raises as `SelfTest.run`."""
        self.self_test.run(seconds, go_on)

    def adopt(self, placement: Placement, adopted: Callable[[int], None] = lambda _: None) -> None:
        """Ask by a newer placement from the next step on; one whose epoch is not higher is ignored. Any thread.

        `adopted` is called with its epoch when no call by an older one is open. A call that was cancelled may still be
        on its way: nobody uses its answer.
        """
        self._await_reach(placement)
        self._inbox.put(partial(self._adopt, placement, adopted))

    def leave(self, seconds: float) -> None:
        """Ask the Fronts to prefer other routers, and wait at most `seconds` for the requests in flight to end."""
        self.reporter.leaving = True
        self._report_due.set()
        deadline = time.monotonic() + seconds
        # Polled: nothing tells when the last stream has gone, and a router leaves once.
        while self.engine.requests.streams and time.monotonic() < deadline:
            time.sleep(LEAVE_POLL_SECONDS)
        if left := self.engine.requests.streams:
            log.warning("requests outlive the router", extra=fields(requests=left))

    def close(self) -> None:
        """Stop the threads and close the connections; requests in flight get no further event."""
        self._engine_thread.stop()
        self.reporter.close()
        self.activity.close()
        self.fronts.close()
        self.connector.close()
        self._engine_thread.join(JOIN_SECONDS)
        self.reporter.thread.join(timeout=JOIN_SECONDS)
        self.engine.pool.transport.close()

    def _accept_fronts(self, identity: RouterIdentity, experts: ExpertsConfig) -> FrontConnections:
        scheduler = self.engine.scheduler
        hello = RouterHello(
            router=identity.replica,
            context=scheduler.longest,
            prompt_limit=scheduler.longest - 1,
            prefix_cache_tokens=scheduler.blocks.cached_tokens,
        )
        return FrontConnections(
            hello=hello,
            receive=self._receive,
            disconnected=self._front_disconnected,
            connected=self._report_due.set,
            credentials=identity.credentials,
            host=identity.host,
            node=identity.node,
            index=identity.index,
            checksum=experts.checksum,
            threads=self.threads,
        )

    def _watch_activity(self, identity: RouterIdentity) -> ActivityMonitor:
        return ActivityMonitor(
            router=identity.replica,
            statistics=self.statistics,
            moe_layers=sorted(self.engine.backbone.sparse_layers),
            placement=self._placement,
            send=self.fronts.send_activity,
            threads=self.threads,
        )

    def _sample_loads(self, identity: RouterIdentity) -> LoadSampler:
        return LoadSampler(
            statistics=self.statistics,
            router=identity.replica,
            epoch=lambda: self._placement().epoch,
            layers=tuple(sorted(self.engine.backbone.sparse_layers)),
            clock=time.monotonic,
            modelled=self.statistics.modelled,
            costs=lambda: self.engine.pool.costs,
            suspect=self._suspects,
        )

    def _suspects(self) -> tuple[int, ...]:
        """The shards whose links are."""
        state, shards = self.engine.pool.transport.state, self._placement().holding
        return tuple(shard for shard in sorted(shards) if state(shard) is LinkState.SUSPECT)

    def _await_reach(self, placement: Placement) -> None:
        """Wait a little for shards that have just come: by the map from before nothing waits for them."""
        deadline = time.monotonic() + REACH_SECONDS
        while self.ready() and not reaches_all(placement, self.connector) and time.monotonic() < deadline:
            time.sleep(LEAVE_POLL_SECONDS)

    def _adopt(self, placement: Placement, adopted: Callable[[int], None]) -> list[Event]:
        # On the engine's thread, between two steps: within one all calls are of one placement.
        if self.engine.pool.adopt(placement):
            adopted(placement.epoch)
            self._report_due.set()
        return []

    def _learn(self, costs: ShardCosts) -> None:
        """Choose by what shards were found to cost from now on."""
        pool = self.engine.pool
        pool.costs = costs.resized(len(pool.costs.call_us_S))

    def _placement(self) -> Placement:
        """The current one."""
        return self.engine.pool.placement

    def _observers(self, step_log: StepLog) -> StepObservers:
        observers = {
            "statistics": self.statistics.observe,
            "loads": self.loads.observe,
            "summaries": self.summaries.note,
            "step_log": step_log.observe,
            "activity": self.activity.observe,
        }
        return StepObservers(self.engine.guard, self.self_test, observers)

    def _connect_shards(
        self,
        transport: SocketTransport,
        shards: Callable[[], list[Endpoint]],
        identity: RouterIdentity,
        experts: ExpertsConfig,
    ) -> ShardConnector:
        return ShardConnector(
            transport=transport,
            shards=self._placement().shards,
            endpoints=shards,
            credentials=identity.credentials,
            node=identity.node,
            call_timeout_s=experts.call_timeout_seconds,
            checksum=experts.checksum,
            share=self.engine.pool.share,
            changed=self._shards_changed,
            threads=self.threads,
            epoch=lambda: self._placement().epoch,
            needed=lambda: self._placement().holding,
        )

    def _report(self, identity: RouterIdentity, sizes: ModelSizes, metrics: MetricsConfig) -> Reporter:
        return Reporter(
            engine=self.engine,
            connector=self.connector,
            statistics=self.statistics,
            labels=Labels(model=identity.model, router=identity.replica),
            sizes=sizes,
            metrics=metrics,
            rejected=lambda: self.fronts.rejected,
            send=self.fronts.report,
            due=self._report_due,
            threads=self.threads,
        )

    def _receive(self, front: int, message: ToRouter) -> None:
        if isinstance(message, Submit):
            self.requests.submit(front, message)
        elif isinstance(message, Watch):
            self.activity.watch(front, message.seconds)
        else:
            self.requests.cancel(front, message)

    def _front_disconnected(self, front: int) -> None:
        self.activity.forget(front)
        self.requests.drop(front)

    def _shards_changed(self) -> None:
        # Stalled requests may be waiting for this shard, and Fronts prefer routers that report all their shards.
        self._inbox.wake()
        self._report_due.set()
