"""Frames on a connection: headers, streams of frames, the handshake."""

import socket
from contextlib import closing

from experts.transport.frame import HEADER, FrameError, Kind, check_payload, pack_header, parse_header
from experts.transport.inbox import Closed, Inbox
from experts.transport.trust.credentials import Credentials
from experts.transport.trust.handshake import Handshake, client_handshake, server_handshake
from tests.fuzz.target import Target

INCARNATION = 7
CREDENTIALS = Credentials(b"a secret of the fuzzer", bytes(range(32)))
# What an unproven process might announce; more is refused before any of it is read.
MOST_PAYLOAD = 1 << 30


def frame(payload: bytes, sequence: int = 1, checksum: bool = False, kind: Kind = Kind.EXPERTS) -> bytes:
    """A whole frame."""
    return pack_header(kind, INCARNATION, sequence, [payload], checksum) + payload


def read_header(data: bytes) -> None:
    """Parse a header and check the payload behind it."""
    header = parse_header(data[: HEADER.size])
    check_payload(header, (data[HEADER.size : HEADER.size + header.length],))


def read_stream(data: bytes) -> None:
    """Both ways to take frames off a stream must give the same frames and end alike."""
    assert _taken(data, wait=True) == _taken(data, wait=False)


def _taken(data: bytes, wait: bool) -> tuple[list[tuple[object, bytes]], str]:
    ours, theirs = socket.socketpair()
    frames: list[tuple[object, bytes]] = []
    with closing(ours), closing(theirs):
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        inbox = Inbox(ours, INCARNATION)
        try:
            while (found := inbox.next(MOST_PAYLOAD) if wait else inbox.poll(MOST_PAYLOAD)) is not None:
                frames.append((found[0], bytes(found[1])))
        except FrameError as error:
            return frames, error.reason
        except Closed:
            return frames, "closed"
    raise AssertionError("a stream that has ended was waited for")


def shake_hands(data: bytes) -> None:
    """A handshake on whose way bytes are changed: `data` says which, in threes of message, place and change."""
    way = Way(data)
    sides = (client_handshake(CREDENTIALS, INCARNATION), server_handshake(CREDENTIALS, INCARNATION))
    try:
        for _ in range(8):
            for number, side in enumerate(sides):
                way.turn(number, side)
    except FrameError:
        assert way.changed, "an honest handshake failed"
        raise
    believed = all(side.proven for side in sides)
    assert believed != way.changed, f"believed: {believed}, changed: {way.changed}"


class Way:
    """What lies between the two sides, and changes bytes."""

    def __init__(self, data: bytes) -> None:
        self.changed = False
        self._changes = [data[at : at + 3] for at in range(0, len(data) - 2, 3)]
        self._towards = (bytearray(), bytearray())
        self._told: dict[int, object] = {}
        self._messages = 0

    def turn(self, number: int, side: Handshake) -> None:
        """Let a side speak once and hear what it waits for, if that has come."""
        if side.proven:
            return
        turn, heard = side.turn, self._towards[number]
        if self._told.get(number) is not turn:
            self._told[number] = turn
            self._towards[1 - number].extend(self._carried(turn.out))
        if len(heard) >= turn.want:
            data = bytes(heard[: turn.want])
            del heard[: turn.want]
            side.advance(data)

    def _carried(self, out: bytes) -> bytes:
        carried = bytearray(out)
        for message, place, change in self._changes:
            if out and message % 3 == self._messages:
                carried[place % len(carried)] ^= change
        self._messages += bool(out)
        self.changed |= carried != out
        return bytes(carried)


_SHORT = [frame(b"", kind=Kind.STATUS), frame(b"x" * 24), frame(b"y" * 100, checksum=True)]
_EMPTY = HEADER.pack(b"EMFR", 4, Kind.CANCEL, 0, 0, INCARNATION, 2**64 - 1, 0, 0, 0)
_CHANGES = (b"", bytes([0, 40, 1]), bytes([1, 90, 255]), bytes([2, 41, 16]))
TARGETS = (
    Target("header", (*_SHORT, _EMPTY), read_header, (FrameError,), 4),
    Target("stream", (*_SHORT, b"".join(_SHORT), frame(b"z" * 3000, 9) * 2), read_stream, (), 3),
    Target("handshake", _CHANGES, shake_hands, (FrameError,), 2),
)
