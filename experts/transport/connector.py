"""Keeps a router connected to every shard, off the engine's thread: look up, connect, hand over, poll the status."""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from experts.host.log import fields
from experts.host.watched_thread import ThreadWatch
from experts.transport.address import Endpoint, new_incarnation
from experts.transport.channel import Channel, connect
from experts.transport.control import Hello
from experts.transport.credentials import Credentials
from experts.transport.frame import FrameError, Kind
from experts.transport.shared import SharedSizes
from experts.transport.socket import SocketTransport

log = logging.getLogger(__name__)

# While a shard is missing, requests wait for it; once all are connected a poll is only for their status.
SEARCH_SECONDS = 0.1
STATUS_SECONDS = 1.0
# Short: a node that is gone does not refuse, and the other shards wait for their turn meanwhile.
CONNECT_SECONDS = 2.0


@dataclass(slots=True)
class ShardConnection:
    """What is known of one shard: its endpoint, its last status, how often we connected.

    The endpoint is that of the last known incarnation, also after it has ended; `restarts` counts the incarnations that
    replaced another one.
    """

    endpoint: Endpoint | None = None
    control: Channel | None = None
    status: dict[str, Any] = field(default_factory=dict)
    connects: int = 0
    restarts: int = 0
    error: str = "not found yet"

    def connected_to(self, endpoint: Endpoint) -> None:
        """Note a new connection of the data plane."""
        self.restarts += self.endpoint is not None and self.endpoint.incarnation != endpoint.incarnation
        self.connects += 1
        self.endpoint = endpoint


class ShardConnector:
    """Watches `endpoints` for the shards 0 to `shards` - 1 and feeds `transport`.

    Args:
        endpoints: returns where each shard is now; may be slow or fail; called on this thread only.
        share: memory to share with each shard on this node, for each lane; without it all goes by sockets.
        changed: called after a shard has been connected.
        threads: the process's, to which the connector's is added.
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
    ) -> None:
        self.connections = [ShardConnection() for _ in range(shards)]
        self._transport = transport
        self._endpoints = endpoints
        self._credentials = credentials
        self._node = node
        self._call_timeout_s = call_timeout_s
        self._checksum = checksum
        self._share = share
        self._hello = Hello(new_incarnation(), 0)
        self._changed = changed
        self._stop = threading.Event()
        self._thread = (threads or ThreadWatch()).start("shard connector", self._run, lasts_until=self._stop.is_set)

    def connected(self) -> bool:
        """Whether every shard can be called."""
        return all(self._transport.available(shard) for shard in range(len(self.connections)))

    def up(self, shard: int) -> bool:
        """Whether a shard can be called and its last status poll succeeded.

        So a process that has died is noticed within a second, even when the shard is idle.
        """
        return self._transport.available(shard) and not self.connections[shard].error

    def close(self) -> None:
        """Stop watching; the transport's connections stay."""
        self._stop.set()
        self._thread.join(timeout=CONNECT_SECONDS + 1)
        for connection in self.connections:
            self._drop_control(connection)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except Exception:  # this thread must last: without it no shard is ever connected again
                log.exception("the search for shards failed; trying again")
            self._stop.wait(STATUS_SECONDS if self.connected() else SEARCH_SECONDS)

    def _look(self) -> None:
        """Visit every shard where it is listed, else where it was last: an unlisted one may still be alive."""
        listed = self._listed()
        for shard, connection in enumerate(self.connections):
            endpoint = listed.get(shard, connection.endpoint)
            if endpoint is not None:
                self._visit(connection, endpoint)

    def _listed(self) -> dict[int, Endpoint]:
        try:
            return {endpoint.index: endpoint for endpoint in self._endpoints()}
        except Exception:
            log.exception("could not get the list of shards; keeping those known")
            return {}

    def _visit(self, connection: ShardConnection, endpoint: Endpoint) -> None:
        shard = endpoint.index
        try:
            if self._transport.incarnation(shard) != endpoint.incarnation:
                channels = self._connect_lanes(endpoint)
                self._drop_control(connection)  # it leads to the previous incarnation
                # Before it is offered: whoever sees the shard available must see this incarnation, and see it counted.
                connection.connected_to(endpoint)
                log.info("shard %d is connected", shard, extra=fields(replica=endpoint.replica, pid=endpoint.pid))
                self._transport.offer(shard, *channels)
                self._changed()
            self._ask_status(connection, endpoint)
            connection.error = ""
        except OSError as error:
            message = f"{type(error).__name__}: {error}"
            # That a shard has not started yet is no news; that one sends a wrong frame or proof is, from the start.
            if not connection.error or (isinstance(error, FrameError) and message != connection.error):
                log.warning("shard %d cannot be reached: %s", shard, error)
            connection.error = message
            self._drop_control(connection)

    def _connect_lanes(self, endpoint: Endpoint) -> list[Channel]:
        channels: list[Channel] = []
        try:
            for _ in range(self._transport.lanes):
                channels.append(self._connect(endpoint, self._share))
        except BaseException:
            for channel in channels:
                channel.close()
            raise
        for channel in channels:
            channel.set_timeouts(self._call_timeout_s)  # until here the timeout was that of connecting
        return channels

    def _connect(self, endpoint: Endpoint, share: SharedSizes | None = None) -> Channel:
        return connect(endpoint, self._node, self._credentials, CONNECT_SECONDS, self._checksum, share, self._hello)

    def _drop_control(self, connection: ShardConnection) -> None:
        if connection.control is not None:
            connection.control.close()
            connection.control = None

    def _ask_status(self, connection: ShardConnection, endpoint: Endpoint) -> None:
        """Poll on a connection of its own: control never queues behind data."""
        if connection.control is None:
            connection.control = self._connect(endpoint)
        connection.control.send(Kind.STATUS, 0, [])
        header, payload = connection.control.receive()
        while header.kind is Kind.BEAT:
            header, payload = connection.control.receive()
        connection.status = json.loads(bytes(payload))
