"""The Fronts that are connected to a router: requests in, outputs out, a writer thread per Front.

The engine's thread only queues a step's events; packing and sending happen on the writers' threads.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import msgspec

from experts.host.watched_thread import ThreadWatch
from experts.transport.address import Endpoint
from experts.transport.channel import Channel
from experts.transport.frame import FrameError, Header, Kind
from experts.transport.listener import FrameServer
from experts.transport.trust.credentials import Credentials
from router_service.engine.request import Event
from router_service.protocol.messages import (
    MAX_MESSAGE_BYTES,
    Activity,
    Cancel,
    RouterHello,
    RouterReport,
    ToRouter,
    decode_to_router,
)
from router_service.router.sending.front_writer import FrontWriter, Outgoing

log = logging.getLogger(__name__)

# One frame a step: a Front that is so many steps behind does not read, and its queue would grow without bound.
MAX_QUEUED_FRAMES = 4096


@dataclass(slots=True)
class FrontConnection:
    """One connected Front."""

    number: int
    channel: Channel
    writer: FrontWriter


class FrontConnections:
    """Accepts Fronts; calls `receive(front, message)` for each message, `connected()` when a Front has connected and
    `disconnected(front)` when it has disconnected.

    All are called on the thread that reads from the Front, and must hand work over instead of doing it. `receive` is
    also called on a writer's thread, to cancel a stream whose output is larger than a message may be.
    """

    def __init__(
        self,
        hello: RouterHello,
        receive: Callable[[int, ToRouter], None],
        disconnected: Callable[[int], None],
        connected: Callable[[], None],
        credentials: Credentials,
        host: str,
        node: str,
        index: int,
        checksum: bool = False,
        threads: ThreadWatch | None = None,
    ) -> None:
        self._hello = hello
        self._receive = receive
        self._disconnected = disconnected
        self._connected = connected
        self._by_channel: dict[Channel, FrontConnection] = {}
        self._by_number: dict[int, FrontConnection] = {}
        self._numbers = count(1)
        self._threads = threads or ThreadWatch()
        self._server = FrameServer(
            role="router",
            index=index,
            replica=hello.router,
            node=node,
            host=host,
            credentials=credentials,
            checksum=checksum,
            handler=self,
            threads=self._threads,
        )

    @property
    def endpoint(self) -> Endpoint:
        """Where Fronts connect."""
        return self._server.endpoint

    def alive(self) -> bool:
        """Whether new Fronts are accepted."""
        return self._server.alive()

    @property
    def rejected(self) -> dict[str, int]:
        """Connections closed, by reason: unauthenticated peers, and peers that sent an invalid message."""
        return dict(self._server.rejected)

    def publish(self, events: list[Event]) -> None:
        """Queue a step's events for their Fronts; those of Fronts that have disconnected are dropped."""
        by_front: dict[int, list[Event]] = {}
        for event in events:
            by_front.setdefault(event.front, []).append(event)
        for front, share in by_front.items():
            self._put(self._by_number.get(front), share)

    def report(self, report: RouterReport) -> None:
        """Queue a report for every Front."""
        # A copy: Fronts connect and disconnect on threads of their own meanwhile.
        for connection in list(self._by_number.values()):
            self._put(connection, report)

    def send_activity(self, front: int, activity: Activity) -> None:
        """Queue live activity for a Front that watches it."""
        self._put(self._by_number.get(front), activity)

    def disconnect(self, front: int) -> None:
        """Close a Front's connection. The Front reconnects, and resubmits its streams to another router."""
        if (connection := self._by_number.pop(front, None)) is not None:
            connection.channel.close()

    def close(self) -> None:
        """Close the connections of all Fronts."""
        self._server.close()

    def opened(self, channel: Channel) -> None:
        """See `Handler`."""
        number = next(self._numbers)
        writer = FrontWriter(channel, lambda stream: self._receive(number, Cancel(stream)), MAX_MESSAGE_BYTES)
        connection = FrontConnection(number, channel, writer)
        # Before anything else can be queued: a Front expects the hello first.
        writer.outgoing.put(self._hello)
        # First: if the thread cannot start, nothing must be in the tables, because `closed` would not remove it.
        self._threads.start("front writer", self._write, connection, name=f"front {connection.number} writer")
        self._by_channel[channel] = self._by_number[connection.number] = connection
        self._connected()

    def frame(self, channel: Channel, header: Header, payload: memoryview) -> None:
        """See `Handler`."""
        if header.kind is not Kind.MESSAGE:
            raise FrameError("kind", f"a router does not take {header.kind.name} frames from a Front")
        connection = self._by_channel[channel]
        try:
            message = decode_to_router(payload)
        except msgspec.DecodeError as error:
            raise FrameError("message", f"a message that cannot be read: {error}") from error
        if isinstance(message, Cancel):
            connection.writer.outgoing.put(message)
        self._receive(connection.number, message)

    def closed(self, channel: Channel) -> None:
        """See `Handler`."""
        connection = self._by_channel.pop(channel)
        self._by_number.pop(connection.number, None)
        # Ends the writer, which may be waiting for the next item.
        connection.writer.outgoing.put(None)
        self._disconnected(connection.number)

    def _put(self, connection: FrontConnection | None, item: Outgoing) -> None:
        if connection is None:
            return
        if connection.writer.outgoing.qsize() > MAX_QUEUED_FRAMES:
            log.warning("front %d does not read, its connection is closed", connection.number)
            self.disconnect(connection.number)
        else:
            connection.writer.outgoing.put(item)

    def _write(self, connection: FrontConnection) -> None:
        """Write until the Front disconnects, then close the connection: without a writer it would stay silent."""
        try:
            connection.writer.run()
        except OSError as error:
            log.warning("front %d cannot be written to: %s", connection.number, error)
        finally:
            connection.channel.close()
