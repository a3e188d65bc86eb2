"""Accepts peers that prove the credentials, one blocking thread per connection; others are closed and counted."""

import contextlib
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from experts.host.watched_thread import ThreadWatch
from experts.transport.address import Endpoint, listen_tcp, listen_unix, new_incarnation
from experts.transport.channel import Channel, accept
from experts.transport.frame import FrameError, Header
from experts.transport.inbox import Closed, Idle
from experts.transport.peers import Peers
from experts.transport.trust.credentials import Credentials

log = logging.getLogger(__name__)

# For all of it. Short: until it has authenticated, anyone who can connect occupies a thread.
HANDSHAKE_SECONDS = 5.0
# Where there is no thread or descriptor left: until one is free, most likely.
PAUSE_SECONDS = 0.1
# For the rest of a frame that has begun; between frames a connection may be idle for any time.
FRAME_SECONDS = 30.0


class Handler(Protocol):
    """What a process does with authenticated peers; called on the connection's own thread."""

    def opened(self, channel: Channel) -> None:
        """A peer has authenticated."""
        ...

    def frame(self, channel: Channel, header: Header, payload: memoryview) -> None:
        """A frame was received; `payload` is valid until this returns. A `FrameError` closes the connection."""
        ...

    def closed(self, channel: Channel) -> None:
        """The connection of an authenticated peer has ended, for whatever reason."""
        ...


class FrameServer:
    """A process's unix and TCP listeners. `rejected` counts closed connections by reason.

    `threads` has the listeners, which must last, and a thread for each connection: one that fails ends its connection.
    A connection's frames are handled within `around`. `handshake_s` and `frame_s` bound the handshake and the rest of
    a frame; who connects gets those of that moment. `peers` bounds how many may be connected.
    """

    def __init__(
        self,
        *,
        role: str,
        index: int,
        replica: str,
        node: str,
        host: str,
        credentials: Credentials,
        checksum: bool,
        handler: Handler,
        threads: ThreadWatch | None = None,
        handshake_s: float = HANDSHAKE_SECONDS,
        frame_s: float = FRAME_SECONDS,
        around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
        peers: Peers | None = None,
    ) -> None:
        self.rejected: Counter[str] = Counter()
        self.handshake_s = handshake_s
        self.frame_s = frame_s
        self._name = f"{role} {index}"
        self._credentials = credentials
        self._checksum = checksum
        self._handler = handler
        self._around = around
        self._threads = threads or ThreadWatch()
        self._peers = peers or Peers()
        self._closing = threading.Event()
        unix, name = listen_unix()
        tcp, port = listen_tcp(host)
        self.endpoint = Endpoint(
            role=role,
            index=index,
            replica=replica,
            incarnation=new_incarnation(),
            node=node,
            host=host,
            port=port,
            unix_name=name,
            pid=os.getpid(),
        )
        self._listeners = (unix, tcp)
        self._accepting = [self._listen(listener) for listener in self._listeners]

    def alive(self) -> bool:
        """Whether both accepting threads live."""
        return not self._closing.is_set() and all(thread.is_alive() for thread in self._accepting)

    @property
    def connections(self) -> int:
        """How many peers are connected that have proven the credentials."""
        return self._peers.proven

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._closing.set()
        for listener in self._listeners:
            _shut(listener)
        self.hang_up()

    def hang_up(self) -> None:
        """End every connection."""
        for channel in self._peers.dismiss_all():
            channel.shut_down()

    def join(self, seconds: float) -> bool:
        """After `close`: wait for all threads to end, at most so long; whether they have, but for one that computes."""
        deadline = time.monotonic() + seconds
        for thread in self._accepting:
            thread.join(max(0.0, deadline - time.monotonic()))
        return self._peers.wait_for_none(max(0.0, deadline - time.monotonic()))

    def _listen(self, listener: socket.socket) -> threading.Thread:
        name = f"{self._name} listener"
        return self._threads.start("listener", self._accept_loop, listener, name=name, lasts_until=self._closing.is_set)

    def _accept_loop(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if not self._closing.is_set():
                    log.warning("%s could not accept a connection: %s", self._name, error)
                    self._closing.wait(PAUSE_SECONDS)
                continue
            try:
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                channel = Channel(sock, self.endpoint.incarnation, self._checksum)
            except OSError as error:  # the peer has gone
                sock.close()
                log.warning("%s could not serve a connection: %s", self._name, error)
                continue
            self._admit(channel)

    def _admit(self, channel: Channel) -> None:
        over = self._peers.admit(channel)
        if over is not None:
            self._reject("too_many", "too many peers that have not proven themselves, or too many in all")
            over.shut_down()
        if over is channel:
            channel.close()
            return
        try:
            self._threads.start("connection", self._serve, channel, name=f"{self._name} data")
        except RuntimeError as error:  # no thread is left: who serves the others must not be lost with this one
            self._reject("no_thread", error)
            channel.close()
            self._peers.remove(channel)
            self._closing.wait(PAUSE_SECONDS)

    def _serve(self, channel: Channel) -> None:
        if self._closing.is_set():  # `close` may have run before the channel was among the peers
            channel.close()
        try:
            accept(channel, self._credentials, self.handshake_s)
            if self._peers.prove(channel):
                channel.set_timeouts(self.frame_s)
                self._read_all(channel)
        except Closed:  # how a peer ends a connection in good order
            pass
        except OSError as error:
            if not self._peers.has_to_go(channel):  # else it was we who ended it
                self._reject(_reason(error), error)
        finally:
            channel.close()
            self._peers.remove(channel)

    def _read_all(self, channel: Channel) -> None:
        self._handler.opened(channel)
        try:
            with self._around():
                while True:
                    try:
                        header, payload = channel.receive()
                    except Idle:
                        continue
                    self._handler.frame(channel, header, payload)
        finally:
            self._handler.closed(channel)

    def _reject(self, reason: str, error: Exception | str) -> None:
        if not self._closing.is_set():  # else the errors are of our own closing
            self.rejected[reason] += 1
            log.warning("%s closed a connection (%s): %s", self._name, reason, error)


def _reason(error: OSError) -> str:
    if isinstance(error, FrameError):
        return error.reason
    return "timeout" if isinstance(error, TimeoutError) else "io"


def _shut(listener: socket.socket) -> None:
    """Close a listener and wake the thread that accepts on it, which `close` alone does not."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
