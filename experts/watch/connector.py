"""Keeps a router connected to every shard, off the engine's thread: look up, dial side by side, hand over, watch."""

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from experts.host.log import fields
from experts.host.watched_thread import ThreadWatch
from experts.links.machine import LinkLimits
from experts.links.state import LinkState
from experts.transport.address import Endpoint, new_incarnation
from experts.transport.frame import FrameError
from experts.transport.shared import SharedSizes
from experts.transport.socket import SocketTransport
from experts.transport.trust.credentials import Credentials
from experts.watch.dialling import CONNECT_SECONDS, Dialler
from experts.watch.watcher import STATUS_SECONDS, Watcher

log = logging.getLogger(__name__)

# While a shard is missing, requests may wait for it.
SEARCH_SECONDS = 0.1


@dataclass(slots=True)
class ShardConnection:
    """What is known of one shard: its endpoint, its last status, how often we connected.

    The endpoint is that of the last known incarnation, also after it has ended; `restarts` counts the incarnations that
    replaced another one. `error` is why there is no connection, empty while there is one.
    """

    endpoint: Endpoint | None = None
    status: dict[str, Any] = field(default_factory=dict)
    connects: int = 0
    restarts: int = 0
    error: str = "not found yet"

    def connected_to(self, endpoint: Endpoint) -> None:
        """Note a new connection of the data plane."""
        self.restarts += self.endpoint is not None and self.endpoint.incarnation != endpoint.incarnation
        self.connects += 1
        self.endpoint = endpoint
        self.error = ""


class ShardConnector:
    """Watches `endpoints` for the shards 0 to `shards` - 1 and feeds `transport` with connections.

    Each shard is dialled on a thread of its own, as one that does not answer must not hold the others up; one thread
    watches all that are connected. There may be room for more shards than there are: one that is neither needed nor
    listed is not missed, and what was known of it is forgotten.

    Args:
        endpoints: returns where each shard is now; may be slow or fail; called on one thread only.
        call_timeout_s: a shard that beats, but gets on with no computation for so long, counts as hung.
        share: memory to share with each shard on this node, for each lane; without it all goes by sockets.
        changed: called after a shard has been connected.
        threads: the process's, to which the connector's are added.
        epoch: returns the highest epoch that the router knows.
        needed: returns the shards that hold experts; all if not given.
    """

    def __init__(
        self,
        transport: SocketTransport,
        shards: int,
        endpoints: Callable[[], list[Endpoint]],
        credentials: Credentials,
        node: str,
        call_timeout_s: float,
        checksum: bool = False,
        share: SharedSizes | None = None,
        changed: Callable[[], None] = lambda: None,
        threads: ThreadWatch | None = None,
        epoch: Callable[[], int] = lambda: 0,
        needed: Callable[[], Collection[int]] | None = None,
    ) -> None:
        self.connections = [ShardConnection() for _ in range(shards)]
        self._needed = needed or (lambda: range(shards))
        self._list: dict[int, Endpoint] = {}
        self._transport = transport
        self._endpoints = endpoints
        self._dialler = Dialler(
            credentials, node, new_incarnation(), epoch, transport.lanes, call_timeout_s, checksum, share
        )
        self._changed = changed
        self._threads = threads or ThreadWatch()
        self._dialling: set[int] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._due = threading.Event()
        transport.links.limits = LinkLimits(hung_s=call_timeout_s)
        transport.links.listen(self._link_changed)
        self._watcher = Watcher(transport.links, self._told, self._control_ended, self._threads)
        self._thread = self._threads.start("shard connector", self._run, lasts_until=self._stop.is_set)

    @property
    def states(self) -> list[LinkState]:
        """The state of each shard's link."""
        return [self.link(shard) for shard in range(len(self.connections))]

    def link(self, shard: int) -> LinkState:
        """The state of a shard's link."""
        return self._transport.state(shard)

    @property
    def there(self) -> frozenset[int]:
        """The shards that count: they hold experts, or are listed, or can be called. Others have left or never came."""
        return frozenset(self._awaited() | set(filter(self.up, range(len(self.connections)))))

    def connected(self) -> bool:
        """Whether every shard that is needed or listed can be called."""
        return all(map(self.up, self._awaited()))

    def up(self, shard: int) -> bool:
        """Whether a shard can be called, as far as its beats tell: one that is silent is not up for seconds."""
        return self._transport.available(shard)

    def close(self) -> None:
        """Stop watching; the transport's connections stay."""
        self._stop.set()
        self._due.set()
        self._thread.join(timeout=CONNECT_SECONDS + 1)
        self._watcher.close(CONNECT_SECONDS + 1)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._due.clear()
            try:
                self._look()
            except Exception:  # this thread must last: without it no shard is ever connected again
                log.exception("the search for shards failed; trying again")
            # A link that ends ends the wait too; but one that cannot be dialled is not to be dialled without a pause.
            if self.connected():
                self._due.wait(STATUS_SECONDS)
            self._stop.wait(0.0 if self.connected() else SEARCH_SECONDS)

    def _look(self) -> None:
        """Dial every shard where it is listed, else where it was last: an unlisted one may still be alive."""
        self._list, there = self._listed(), self.there
        for shard, connection in enumerate(self.connections):
            if shard not in there:
                self._forget(shard)
                continue
            endpoint = self._list.get(shard, connection.endpoint)
            if endpoint is not None and self._transport.incarnation(shard) != endpoint.incarnation:
                self._dial(endpoint)

    def _awaited(self) -> set[int]:
        return {*self._needed(), *self._list}

    def _forget(self, shard: int) -> None:
        """It has left: when it comes again it is no restart, and nobody dials it until then."""
        with self._lock:
            if shard not in self._dialling and self.connections[shard].endpoint is not None:
                self.connections[shard] = ShardConnection()

    def _listed(self) -> dict[int, Endpoint]:
        try:
            return {one.index: one for one in self._endpoints() if one.index < len(self.connections)}
        except Exception:
            log.exception("could not get the list of shards; keeping those known")
            return self._list

    def _dial(self, endpoint: Endpoint) -> None:
        shard = endpoint.index
        with self._lock:
            if shard in self._dialling:
                return
            self._dialling.add(shard)
        try:
            self._threads.start("shard dialler", self._connect, endpoint)
        except RuntimeError as error:  # no thread is left: later, perhaps
            self._dialling.discard(shard)
            log.warning("shard %d cannot be dialled: %s", shard, error)

    def _connect(self, endpoint: Endpoint) -> None:
        shard = endpoint.index
        connection = self.connections[shard]
        try:
            dialled = self._dialler.dial(endpoint)
        except OSError as error:
            self._not_reached(connection, shard, error)
            return
        finally:
            self._dialling.discard(shard)
        with self._lock:
            if self._stop.is_set():
                dialled.close()
                return
            # Before it is offered: whoever sees the shard available must see this incarnation, and see it counted.
            connection.connected_to(endpoint)
            log.info("shard %d is connected", shard, extra=fields(replica=endpoint.replica, pid=endpoint.pid))
            number = self._transport.offer(shard, *dialled.channels, control=dialled.control)
            self._watcher.watch(shard, number, dialled.control)
        self._changed()

    def _not_reached(self, connection: ShardConnection, shard: int, error: OSError) -> None:
        message = f"{type(error).__name__}: {error}"
        # That a shard has not started yet is no news; that one sends a wrong frame or proof is, from the start.
        if not connection.error or (isinstance(error, FrameError) and message != connection.error):
            log.warning("shard %d cannot be reached: %s", shard, error)
        connection.error = message

    def _told(self, shard: int, status: dict[str, Any]) -> None:
        self.connections[shard].status = status

    def _control_ended(self, shard: int, number: int, error: Exception) -> None:
        reason = error.reason if isinstance(error, FrameError) else "eof"
        self._transport.links.ended(shard, number, reason)

    def _link_changed(self, shard: int) -> None:
        """On any thread, the engine's too."""
        state = self.link(shard)
        if state is LinkState.DEAD and not self._stop.is_set() and shard < len(self.connections):
            reason = self._transport.links.reason(shard)
            self.connections[shard].error = f"the connection has ended ({reason})"
            if shard in self._needed():
                log.warning("shard %d is lost (%s)", shard, reason)
            else:
                log.info("shard %d has left (%s)", shard, reason)
            self._watcher.forget(shard)
            self._due.set()
            self._changed()
