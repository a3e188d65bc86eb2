"""Takes frames off a stream with few system calls: what has come is read at once, header and payload together.

Calls and replies take turns on a connection, so nearly always that is one whole frame and nothing behind it.
"""

import socket

import numpy as np

from experts.transport.frame import HEADER, FrameError, Header, check_payload, parse_header

# Frames are put so that their payloads begin at a multiple of this, and so do the rows behind a payload's numbers.
ALIGNMENT = 64
BEGIN = -HEADER.size % ALIGNMENT
ROOM_BYTES = 1 << 16


class Closed(ConnectionError):  # noqa: N818 (an end, not a fault)
    """The peer ended the connection between two frames."""


class Idle(TimeoutError):  # noqa: N818 (a state)
    """Nothing came in time, not even the first byte of a frame; the connection is still usable."""


class Inbox:
    """The receiving half of a blocking socket, for frames of one incarnation.

    Its payloads lie in one buffer, which the next frame overwrites.
    """

    def __init__(self, sock: socket.socket, incarnation: int) -> None:
        self._sock = sock
        self._incarnation = incarnation
        self._room = _aligned(ROOM_BYTES)
        # Bytes of the stream in the room, and how many of them belong to the frame that was handed out.
        self._have = 0
        self._taken = 0

    def read_some(self, view: memoryview, started: bool) -> int:
        """Read what comes next into `view`; return how many bytes. Between frames it does not see what was read ahead.

        Args:
            started: whether they are of a frame that has begun.

        Raises:
            Closed, Idle, FrameError, TimeoutError: see `Channel.receive`.
        """
        try:
            count = self._sock.recv_into(view)
        except BlockingIOError:  # how SO_RCVTIMEO reports that it has expired
            raise (TimeoutError if started else Idle)("the peer sent nothing in time") from None
        return _counted(count, started)

    @property
    def ahead(self) -> bool:
        """Whether something has been read beyond the frame that was handed out last."""
        return self._have > self._taken

    def poll(self, limit: int) -> tuple[Header, memoryview] | None:
        """The next frame if all of it has come, else None: what has come is kept. Does not wait.

        Raises:
            Closed, FrameError: see `Channel.receive`.
        """
        self._drop_taken()
        while (frame := self._whole(limit)) is None:
            try:
                view = self._room[BEGIN + self._have :]
                count = self._sock.recv_into(view, len(view), socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            self._have += _counted(count, self._have > 0)
        return frame

    def _whole(self, limit: int) -> tuple[Header, memoryview] | None:
        """The frame at the beginning of the room, if it is there; else there is room for it."""
        if self._have < HEADER.size:
            return None
        header = self._parsed(limit)
        whole = HEADER.size + header.length
        self._grow(whole)
        return self._handed_out(header, whole) if self._have >= whole else None

    def _handed_out(self, header: Header, whole: int) -> tuple[Header, memoryview]:
        payload = self._room[BEGIN + HEADER.size : BEGIN + whole]
        check_payload(header, (payload,))
        self._taken = whole
        return header, payload

    def _drop_taken(self) -> None:
        """Forget the frame that was handed out last; what has come of the next moves to the beginning."""
        left = self._have - self._taken
        if left:
            self._room[BEGIN : BEGIN + left] = self._room[BEGIN + self._taken : BEGIN + self._have]
        self._have, self._taken = left, 0

    def next(self, limit: int) -> tuple[Header, memoryview]:
        """The next frame, of at most `limit` bytes of payload; see `Channel.receive`."""
        self._drop_taken()
        header = self._header(limit)
        whole = HEADER.size + header.length
        self._grow(whole)
        while self._have < whole:
            self._have += self.read_some(self._room[BEGIN + self._have : BEGIN + whole], started=True)
        return self._handed_out(header, whole)

    def _header(self, limit: int) -> Header:
        while self._have < HEADER.size:
            self._have += self.read_some(self._room[BEGIN + self._have :], self._have > 0)
        return self._parsed(limit)

    def _parsed(self, limit: int) -> Header:
        header = parse_header(self._room[BEGIN : BEGIN + HEADER.size], limit)
        # An address may be taken over by the next process: what was meant for its predecessor must not be computed.
        if header.incarnation != self._incarnation:
            wrong = f"a frame for incarnation {header.incarnation}, this is {self._incarnation}"
            raise FrameError("incarnation", wrong)
        return header

    def _grow(self, size: int) -> None:
        """Make room for so many bytes of the stream."""
        if BEGIN + size > len(self._room):
            room = _aligned(BEGIN + size)
            room[BEGIN : BEGIN + self._have] = self._room[BEGIN : BEGIN + self._have]
            self._room = room


def _counted(count: int, started: bool) -> int:
    """The bytes received, of a frame that may have started; none means that the stream has ended."""
    if count == 0 and started:
        raise FrameError("short", "the connection ended in the middle of a frame")
    if count == 0:
        raise Closed("the peer closed the connection")
    return count


def _aligned(size: int) -> memoryview:
    store = np.empty(size + ALIGNMENT, np.uint8)
    at = -store.ctypes.data % ALIGNMENT
    return store[at : at + size].data
