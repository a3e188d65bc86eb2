"""A process that tells the directory how far it is, and does what it is told there."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from cluster.config import ClusterConfig
from cluster.processes.process import node_id, replica_id, set_logging
from cluster.processes.service_registry import Announcement, Announcer, DrainOrder, find_directory
from experts.host.watched_thread import ThreadWatch
from experts.transport.address import Endpoint


class EndedWhileLoadingError(RuntimeError):
    """A process was told to drain before it was ready: it has nothing in flight, and ends instead of loading on."""


class RegisteredProcess:
    """An entry in the directory: loading, ready, draining, drained. It exists before anything is opened or loaded.

    `threads` are those of the whole process.

    Args:
        drain: called on a thread of its own, once, when the process is told to drain or is about to be stopped; it
            returns when nothing is in flight any more.
    """

    def __init__(self, role: str, index: int, config: ClusterConfig, drain: Callable[[DrainOrder], None]) -> None:
        set_logging(config, f"{role} {index}" if role == "shard" else role)
        self.directory = find_directory(config.cluster.application)
        self.threads = ThreadWatch(("announcer",))
        self._drain = drain
        self._draining: threading.Thread | None = None
        self._lock = threading.Lock()
        self._told_to_end = threading.Event()
        self._state = Announcement(role, index, replica_id(), node_id(), os.getpid(), "loading")
        self._announcer = Announcer(self.directory, lambda: self._state, self._told, self.threads)

    @property
    def ending(self) -> bool:
        """Whether the process was told to drain, or has drained."""
        return self._state.state in ("draining", "drained")

    @contextmanager
    def loading(self) -> Iterator[None]:
        """What is done before the process is ready. If it fails, the process has drained, and is withdrawn."""
        try:
            yield
            self.go_on()
        except BaseException:
            self._say("drained", None)
            self.close()
            raise

    def will_load(self, total_bytes: int) -> None:
        """So many bytes of weights are to be loaded."""
        self._state = replace(self._state, total_bytes=total_bytes)
        self.go_on()

    def progress(self, loaded: int) -> None:
        """So many more bytes are loaded: called between tensors; raises as `go_on` does."""
        self._state = replace(self._state, loaded_bytes=self._state.loaded_bytes + loaded)
        self.go_on()

    def go_on(self) -> None:
        """Called between the steps of loading.

        Raises:
            EndedWhileLoadingError: the process was told to drain.
        """
        if self._told_to_end.is_set():
            state = self._state
            raise EndedWhileLoadingError(
                f"told to drain while loading: ended after {state.loaded_bytes} of {state.total_bytes} bytes"
            )

    def ready(self, endpoint: Endpoint | None) -> None:
        """The process works; peers may connect to `endpoint` from now on."""
        self._say("ready", endpoint)

    def drain(self, order: DrainOrder) -> None:
        """Drain as told, or wait until the drain that has begun has ended. Blocks."""
        with self._lock:
            if self._draining is None:
                self._draining = self.threads.start("drain", self._run, order)
        self._draining.join()

    def close(self) -> None:
        """Withdraw."""
        self._announcer.close()

    def _told(self, order: DrainOrder) -> None:
        if self._state.state == "ready":
            self.threads.start("drain", self.drain, order, name="told to drain")
        elif self._state.state == "loading":  # one that is ready by now hears of it again
            self._told_to_end.set()

    def _run(self, order: DrainOrder) -> None:
        self._say("draining", self._state.endpoint)
        try:
            self._drain(order)
        finally:
            self._say("drained", None)

    def _say(self, state: str, endpoint: Endpoint | None) -> None:
        self._state = replace(self._state, state=state, endpoint=endpoint)
        self._announcer.announce_now()
