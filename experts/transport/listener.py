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
from experts.transport.credentials import Credentials
from experts.transport.frame import FrameError, Header
from experts.transport.inbox import Closed, Idle

log = logging.getLogger(__name__)

# Short: until it has authenticated, anyone who can connect occupies a thread.
HANDSHAKE_SECONDS = 5.0
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
    a frame; who connects gets those of that moment.
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
        self._channels: set[Channel] = set()
        self._closing = False
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
        return not self._closing and all(thread.is_alive() for thread in self._accepting)

    @property
    def connections(self) -> int:
        """How many peers are connected."""
        return len(self._channels)

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._closing = True
        for listener in self._listeners:
            _shut(listener)
        self.hang_up()

    def hang_up(self) -> None:
        """End every connection."""
        for channel in list(self._channels):  # a copy: each connection's thread removes its own
            channel.close()

    def _listen(self, listener: socket.socket) -> threading.Thread:
        name, closing = f"{self._name} listener", lambda: self._closing
        return self._threads.start("listener", self._accept_loop, listener, name=name, lasts_until=closing)

    def _accept_loop(self, listener: socket.socket) -> None:
        while not self._closing:
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if not self._closing:
                    log.warning("%s could not accept a connection: %s", self._name, error)
                    time.sleep(0.1)  # out of descriptors, most likely: no busy loop until one is free
                continue
            try:
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._threads.start("connection", self._serve, sock, name=f"{self._name} data")
            except (OSError, RuntimeError) as error:
                # The peer has gone, or no thread is left: the next connection may work.
                sock.close()
                log.warning("%s could not serve a connection: %s", self._name, error)

    def _serve(self, sock: socket.socket) -> None:
        channel = Channel(sock, self.endpoint.incarnation, self._checksum)
        self._channels.add(channel)
        if self._closing:  # `close` may have run before the channel was added
            channel.close()
        try:
            channel.set_timeouts(self.handshake_s)
            accept(channel, self._credentials)
            channel.set_timeouts(self.frame_s)
            self._read_all(channel)
        except Closed:  # how a peer ends a connection in good order
            pass
        except FrameError as error:
            self._reject(error.reason, error)
        except OSError as error:
            self._reject("timeout" if isinstance(error, TimeoutError) else "io", error)
        finally:
            self._channels.discard(channel)
            channel.close()

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

    def _reject(self, reason: str, error: Exception) -> None:
        if not self._closing:  # else the errors are of our own closing
            self.rejected[reason] += 1
            log.warning("%s closed a connection (%s): %s", self._name, reason, error)


def _shut(listener: socket.socket) -> None:
    """Close a listener and wake the thread that accepts on it, which `close` alone does not."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
