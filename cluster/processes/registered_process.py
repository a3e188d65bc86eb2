"""A process that reports its state to the registry and obeys the orders that it gets there."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from cluster.config import ClusterConfig
from cluster.planner.start_placement import start_of
from cluster.processes.announcer import Announcer
from cluster.processes.maps.map_follower import MapFollower
from cluster.processes.maps.map_view import Asker
from cluster.processes.maps.placement_maps import Layout
from cluster.processes.priority import take_normal_priority
from cluster.processes.process import node_id, replica_id, set_logging
from cluster.processes.service_registry import Announcement, DrainOrder, find_registry
from experts.host.watched_thread import ThreadWatch
from experts.transport.address import Endpoint, new_incarnation


class EndedWhileLoadingError(RuntimeError):
    """A process was told to drain before it was ready: nothing is in flight, so it ends instead of loading on."""


class RegisteredProcess:
    """An entry in the registry: loading, ready, draining, drained. It exists before anything is opened or loaded.

    `threads` are those of the whole process.

    Args:
        drain: called on a thread of its own, once, when the process is told to drain or is about to be stopped; it
            returns when nothing is in flight any more.
    """

    def __init__(self, role: str, index: int, config: ClusterConfig, drain: Callable[[DrainOrder], None]) -> None:
        set_logging(config, f"{role} {index}" if role == "shard" else role)
        take_normal_priority()  # before any thread is started: threads inherit it
        self.registry = find_registry(config.cluster.application)
        self.threads = ThreadWatch(("announcer", "drain", "placement map"))
        self._config = config
        self._drain = drain
        self._follower: MapFollower | None = None
        self._draining: threading.Thread | None = None
        self._lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._end_requested: DrainOrder | None = None
        self._computed_s: Callable[[], float] = float
        self._state = Announcement(
            role=role,
            index=index,
            replica=replica_id(),
            node=node_id(),
            pid=os.getpid(),
            state="loading",
            started_ns=time.time_ns(),
            incarnation=new_incarnation(),
        )
        self._announcer = Announcer(
            self.registry, describe=self._describe, on_order=self._on_order, threads=self.threads
        )

    @property
    def ending(self) -> bool:
        """Whether the process is draining or has drained."""
        return self._state.state in ("draining", "drained")

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Everything before the process is ready. If it fails, the process counts as drained and is withdrawn."""
        try:
            yield
            self.go_on()
        except BaseException:
            self._report("drained", None)
            self.close()
            raise

    def will_load(self, total_bytes: int) -> None:
        """Report how many bytes of weights are to be loaded, beside those that have been."""
        self._change(total_bytes=self._state.loaded_bytes + total_bytes)
        self.go_on()

    def progress(self, loaded: int) -> None:
        """Report `loaded` more bytes. Called between tensors; raises as `go_on` does."""
        self._change(loaded_bytes=self._state.loaded_bytes + loaded)
        self.go_on()

    def map_follower(self, layout: Layout) -> MapFollower:
        """Where this process learns which shards hold which expert; reported by its epoch, closed with the entry."""
        asker = Asker(self._state.role, self._state.replica)
        self._follower = MapFollower(
            self.registry,
            layout,
            self._goes_by_map,
            asker,
            start=start_of(self._config, max(layout.shards, layout.room)),
        )
        return self._follower

    def prepared(self, epoch: int) -> None:
        """Report that this shard holds what the coming map of `epoch` gives it; 0: there is none, or not all of it."""
        self._tell(prepared=epoch, refused=None)

    def refuses(self, epoch: int, why: str) -> None:
        """Report that this shard cannot hold what the coming map of `epoch` gives it."""
        self._tell(prepared=0, refused=(epoch, why))

    def holds(self, weights_bytes: int) -> None:
        """Report what the weights take now: routers that start leave room for what may still be loaded."""
        self._change(loaded_bytes=weights_bytes, total_bytes=weights_bytes)

    def go_on(self) -> None:
        """Check between two steps of loading whether to go on.

        Raises:
            EndedWhileLoadingError: the process was told to drain.
        """
        if self._end_requested is not None:
            state = self._state
            raise EndedWhileLoadingError(
                f"told to drain while loading: ended after {state.loaded_bytes} of {state.total_bytes} bytes"
            )

    def ready(
        self, endpoint: Endpoint | None, computed_s: Callable[[], float] = float, shares_port: bool = False
    ) -> None:
        """Report that the process serves; peers may connect to `endpoint` from now on.

        Each renewal of the entry tells the `computed_s` of the moment.
        """
        self._computed_s = computed_s
        self._change(shares_port=shares_port)
        self._report("ready", endpoint)
        # Told after the last check of loading: the registry may have forgotten the order by the next renewal.
        if self._end_requested is not None:
            self._on_order(self._end_requested)

    def reached_at(self, endpoint: Endpoint) -> None:
        """Report where a process that serves is reached from now on."""
        self._tell(endpoint=endpoint)

    def drain(self, order: DrainOrder) -> None:
        """Drain, or wait for the drain that is already running. Blocks."""
        with self._lock:  # an order and Serve's stop may come at the same time: one drain for both
            if self._draining is None:
                self._draining = self.threads.start("drain", self._run, order)
        self._draining.join()

    def close(self) -> None:
        """Withdraw from the registry."""
        if self._follower is not None:
            self._follower.close()
        self._announcer.close()

    def _goes_by_map(self, epoch: int) -> None:
        self._tell(epoch=epoch)

    def _tell(self, **changed: Any) -> None:
        self._change(**changed)
        self._announcer.announce_now()

    def _change(self, **changed: Any) -> None:
        with self._state_lock:  # one thread loads, others follow the map, drain, or load what a coming one gives
            self._state = replace(self._state, **changed)

    def _on_order(self, order: DrainOrder) -> None:
        if self._state.state == "ready":
            self.threads.start("drain", self.drain, order, name="told to drain")
        elif self._state.state == "loading":
            self._end_requested = order

    def _run(self, order: DrainOrder) -> None:
        self._report("draining", self._state.endpoint)
        try:
            self._drain(order)
        finally:  # even if it failed: `cluster.processes.draining` waits for this state
            self._report("drained", None)

    def _describe(self) -> Announcement:
        return replace(self._state, computed_s=self._computed_s())

    def _report(self, state: str, endpoint: Endpoint | None) -> None:
        self._tell(state=state, endpoint=endpoint)
