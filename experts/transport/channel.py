"""A connected, authenticated socket that carries frames, for blocking threads."""

import contextlib
import math
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence

from experts.transport.address import Endpoint, dial
from experts.transport.control import Hello
from experts.transport.frame import HEADER, Buffer, Header, Kind, pack_header
from experts.transport.inbox import Inbox
from experts.transport.shared import SharedRows, SharedSizes, ask_for, give
from experts.transport.trust.credentials import Credentials
from experts.transport.trust.handshake import Handshake, Turn, client_handshake, server_handshake

SOCKET_BUFFER_BYTES = 4 << 20
JOINED_BYTES = 1 << 14
LEAST_TIMEOUT_SECONDS = 1e-3


class Channel:
    """Frames over `sock`, all stamped with `incarnation`. `sent_bytes` and `received_bytes` count headers too.

    A payload is read into one buffer that the next `receive` overwrites: use it before.
    """

    def __init__(self, sock: socket.socket, incarnation: int, checksum: bool = False) -> None:
        self.incarnation = incarnation
        self.sent_bytes = 0
        self.received_bytes = 0
        self._sock = sock
        # Asked for each reply, and Python's socket makes an enum of its family each time.
        self._same_host = sock.family == socket.AF_UNIX
        self._checksum = checksum
        self._inbox = Inbox(sock, incarnation)
        self.shared: SharedRows | None = None
        self._send_lock = threading.Lock()  # parts of two frames must not mix on the stream
        self._unsent = bytearray()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)

    def fileno(self) -> int:
        """The file descriptor, for `poll`."""
        return self._sock.fileno()

    @property
    def same_host(self) -> bool:
        """Whether the peer reads the same monotonic clock as we do."""
        return self._same_host

    def hung_up(self) -> bool:
        """Whether the peer has ended the connection, whatever it sent before and is unread. Does not wait."""
        poll = select.poll()
        try:
            poll.register(self, select.POLLRDHUP)
        except ValueError:  # closed on our side
            return True
        return bool(poll.poll(0))

    def set_timeouts(self, seconds: float) -> None:
        """Bound each read and write, with `TimeoutError` past `seconds`.

        By the kernel's socket options: Python's own timeout makes the socket non-blocking and polls before each call.
        """
        self._sock.settimeout(None)
        value = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._sock.setsockopt(socket.SOL_SOCKET, option, value)

    def ask_to_share(self, sizes: SharedSizes) -> None:
        """Ask the shard at the other end to share memory of such sizes; before any other frame, after the handshake.

        Then `shared` has it. Without it, as between two machines, all goes by the socket. A checksum is of what the
        socket carries, so with one nothing is shared.

        Raises:
            OSError: the connection failed.
        """
        if self._same_host and not self._checksum:
            self.shared = ask_for(self._sock, self.incarnation, sizes)

    def give_shared(self, sequence: int, request: memoryview) -> None:
        """Answer such a question.

        Raises:
            FrameError: it is none of ours.
            OSError: the connection failed.
        """
        with self._send_lock:
            self.shared = give(self._sock, self.incarnation, sequence, bytes(request))

    def send(self, kind: Kind, sequence: int, parts: Sequence[Buffer]) -> None:
        """Send one frame whose payload is `parts` one after the other, without joining them.

        Raises:
            OSError: the peer is gone or does not read.
        """
        header = pack_header(kind, self.incarnation, sequence, parts, self._checksum)
        size = len(header) + sum(map(len, parts))
        # A small frame is copied sooner than many parts are handed to the kernel.
        views = [b"".join((header, *parts))] if size <= JOINED_BYTES else [header, *parts]
        with self._send_lock:
            self.sent_bytes += _send_all(self._sock, views, size)

    def post(self, kind: Kind, sequence: int, parts: Sequence[Buffer]) -> bool:
        """Send one frame without waiting; what the peer has no room for is kept, and `flush` sends it.

        Returns whether all has been sent. Not to be mixed with `send` on one channel.

        Raises:
            OSError: the peer is gone.
        """
        header = pack_header(kind, self.incarnation, sequence, parts, self._checksum)
        size = len(header) + sum(map(len, parts))
        with self._send_lock:
            self.sent_bytes += size
            # A copy where it is small, and of what could not be sent: the caller's buffers are used again.
            views = [b"".join((header, *parts))] if size <= JOINED_BYTES else [header, *parts]
            count = 0 if self._unsent else _send_now(self._sock, views)
            if count < size:
                self._unsent += b"".join(views)[count:]
            return count == size or (count == 0 and self._flush())

    def flush(self) -> bool:
        """Go on sending what `post` could not; returns whether all has been sent.

        Raises:
            OSError: the peer is gone.
        """
        with self._send_lock:
            return self._flush()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that `post` has kept."""
        return len(self._unsent)

    def _flush(self) -> bool:
        if self._unsent:
            with memoryview(self._unsent) as rest:
                count = _send_now(self._sock, [rest])
            del self._unsent[:count]
        return not self._unsent

    def poll(self, max_payload: int = 1 << 30) -> tuple[Header, memoryview] | None:
        """Return the next frame if all of it has come, else None. Does not wait.

        Raises:
            Closed, FrameError: see `receive`.
        """
        frame = self._inbox.poll(max_payload)
        if frame is not None:
            self.received_bytes += HEADER.size + frame[0].length
        return frame

    @property
    def read_ahead(self) -> bool:
        """Whether bytes beyond the last frame have been read: `poll` may have one more, which no epoll will tell."""
        return self._inbox.ahead

    def receive(self, max_payload: int = 1 << 30) -> tuple[Header, memoryview]:
        """Return the next frame.

        Raises:
            Closed: the peer hung up between frames.
            Idle: no frame began in time.
            FrameError: what came is not a frame, is cut short, damaged, or of another incarnation.
            TimeoutError: only a part came in time.
        """
        header, payload = self._inbox.next(max_payload)
        self.received_bytes += HEADER.size + header.length
        return header, payload

    def carry_out(self, handshake: Handshake, within_s: float = math.inf) -> None:
        """Run `handshake` to its end, before any other frame.

        Args:
            within_s: for all of it: a peer that sends a byte now and then is late too. `set_timeouts` is due then.

        Raises:
            TimeoutError: it took longer.
            Closed: the peer hung up, as it does when it refuses our proof.
            FrameError: the peer failed to authenticate; the rest as in `receive`.
        """
        deadline = time.monotonic() + within_s
        while not handshake.proven:
            turn = handshake.turn
            if turn.out:
                self.sent_bytes += _send_all(self._sock, [turn.out], len(turn.out))
            handshake.advance(self._read(turn, deadline))

    def _read(self, turn: Turn, deadline: float) -> bytes:
        """What a turn wants, read in as many pieces as it comes in."""
        data = bytearray(turn.want)
        rest, within = memoryview(data), turn.within
        while len(rest):
            if deadline < math.inf:
                self.set_timeouts(_left(deadline))
            count = self._inbox.read_some(rest, within)
            rest, within = rest[count:], True
        self.received_bytes += turn.want
        return bytes(data)

    def shut_down(self) -> None:
        """End the connection, and leave it to the thread that reads it to close the socket."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket and wake every thread that is blocked on it."""
        # `close` alone leaves a thread that is blocked in `recv` blocked.
        self.shut_down()
        self._sock.close()


def _send_all(sock: socket.socket, parts: Sequence[Buffer], size: int) -> int:
    try:
        count = sock.send(parts[0]) if len(parts) == 1 else sock.sendmsg(parts)
        if count < size:  # seldom: there is room for a whole frame
            _send_rest(sock, [memoryview(part) for part in parts], count)
    except BlockingIOError:
        raise TimeoutError("the peer read nothing in time") from None
    return size


def _send_now(sock: socket.socket, parts: Sequence[Buffer]) -> int:
    """Send as much of `parts` as there is room for; returns how many bytes that was."""
    try:
        return sock.sendmsg(parts, (), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return 0


def _send_rest(sock: socket.socket, views: list[memoryview], count: int) -> None:
    """Send `views` without their first `count` bytes."""
    while views:
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if views:
            views[0] = views[0][count:]
            count = sock.sendmsg(views)


def connect(
    endpoint: Endpoint,
    node: str,
    credentials: Credentials,
    timeout_s: float,
    checksum: bool = False,
    share: SharedSizes | None = None,
    hello: Hello | None = None,
) -> Channel:
    """Dial `endpoint` from `node` and prove the credentials both ways.

    Args:
        hello: what a router says to a shard first of all.
        share: ask a shard to share so much memory then.

    Raises:
        OSError: nothing answers, or a process other than the one that `endpoint` names, or one of another deployment
            (a `FrameError` with reason `digest`).
    """
    sock = dial(endpoint, node, timeout_s)
    channel = Channel(sock, endpoint.incarnation, checksum)
    try:
        channel.set_timeouts(timeout_s)
        channel.carry_out(client_handshake(credentials, endpoint.incarnation), timeout_s)
        channel.set_timeouts(timeout_s)
        if hello is not None:
            channel.send(Kind.HELLO, 0, [hello.packed()])
        if share is not None:
            channel.ask_to_share(share)
    except BaseException:
        channel.close()
        raise
    return channel


def accept(channel: Channel, credentials: Credentials, within_s: float) -> None:
    """The server's side of the handshake on a fresh connection, all of it within so many seconds.

    Raises:
        OSError: the peer failed to prove the credentials (a `FrameError` that says why), hung up, or took too long.
    """
    channel.carry_out(server_handshake(credentials, channel.incarnation), within_s)


def _left(deadline: float) -> float:
    """Seconds until then, more than 0, which would set no limit."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the peer took too long to prove itself")
    return max(left, LEAST_TIMEOUT_SECONDS)
