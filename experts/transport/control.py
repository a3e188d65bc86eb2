"""What is said about calls, beside the calls themselves: small payloads, each a fixed row of numbers but for a tail.

    HELLO   router -> shard, first on each connection: who the router is, so that what it says on one connection can
            be about its calls on another. A connection then carries either calls (SHARE, EXPERTS), control (STATUS,
            CANCEL) or copies (COPY); the first such frame decides, and a frame of the other sort ends it
    MISS    shard -> router, in reply to a call: the shard does not hold these experts
    BUSY    shard -> router, in reply to a call: too many calls wait here, ask again after a while
    FAILURE shard -> router, in reply to a call: the computation failed; `permanent` if it would again
    CANCEL  router -> shard, on the control connection: nobody waits for this call's answer any more
    BEAT    shard -> router, on the control connection, after its first STATUS, every 50 ms by a thread that no
            computation holds up. A router that does not read gets no more beats until it has read those sent

    COPY    shard -> shard, on a connection of its own: bytes of an expert as the other holds it, from a place on
    PIECE   shard -> shard, in reply: those bytes, how many the expert has in all, and the digest of all. What is not
            held, or cannot be sent, is answered with MISS

A reply bears its call's sequence number, and CANCEL the number of the call that it ends. Each attempt at the same rows
is a call with a number of its own, unique in one run of a router.
"""

import struct
from typing import NamedTuple

import numpy as np

from experts.transport.frame import Buffer, FrameError

BEAT_SECONDS = 0.05
_HELLO = struct.Struct("<QQ")
_MISS = struct.Struct("<QQ")
_BUSY = struct.Struct("<Q")
_FAILURE = struct.Struct("<B")
_BEAT = struct.Struct("<QQQQQ")
_COPY = struct.Struct("<IIQI")
_PIECE = struct.Struct("<Q32s")
MOST_TEXT_BYTES = 4096
# A flag of BEAT's last number.
_DRAINING = 1


class Hello(NamedTuple):
    """The router's incarnation, and the highest epoch that it knows."""

    router: int
    epoch: int

    def packed(self) -> bytes:
        """The payload."""
        return _HELLO.pack(*self)

    @classmethod
    def unpacked(cls, payload: Buffer) -> "Hello":
        """The reverse. Raises `FrameError`: the length is wrong."""
        return cls(*_numbers(_HELLO, payload))


class Miss(NamedTuple):
    """The shard's epoch, and the experts of the call that it does not hold."""

    epoch: int
    experts: tuple[int, ...]

    def packed(self) -> bytes:
        """The payload."""
        return _MISS.pack(self.epoch, len(self.experts)) + np.array(self.experts, "<u4").tobytes()

    @classmethod
    def unpacked(cls, payload: Buffer) -> "Miss":
        """The reverse. Raises `FrameError`: the length is wrong."""
        epoch, count = _numbers(_MISS, payload, exact=False)
        if len(payload) != _MISS.size + 4 * count:
            raise FrameError("length", f"a MISS of {count} experts does not have {len(payload)} bytes")
        return cls(epoch, tuple(np.frombuffer(payload, "<u4", count, _MISS.size).tolist()))


class Busy(NamedTuple):
    """Microseconds after which the router may ask again."""

    retry_us: int

    def packed(self) -> bytes:
        """The payload."""
        return _BUSY.pack(self.retry_us)

    @classmethod
    def unpacked(cls, payload: Buffer) -> "Busy":
        """The reverse. Raises `FrameError`: the length is wrong."""
        return cls(*_numbers(_BUSY, payload))


class Failure(NamedTuple):
    """Whether the same call would fail again, and why it did."""

    permanent: bool
    text: str

    def packed(self) -> bytes:
        """The payload; a long text is cut."""
        return _FAILURE.pack(self.permanent) + self.text.encode(errors="replace")[:MOST_TEXT_BYTES]

    @classmethod
    def unpacked(cls, payload: Buffer) -> "Failure":
        """The reverse. Raises `FrameError`: the length is wrong."""
        (permanent,) = _numbers(_FAILURE, payload, exact=False)
        if len(payload) > _FAILURE.size + MOST_TEXT_BYTES:
            raise FrameError("length", f"a FAILURE has at most {MOST_TEXT_BYTES} bytes of text")
        return cls(bool(permanent), bytes(payload[_FAILURE.size :]).decode(errors="replace"))


class Beat(NamedTuple):
    """A sign of life.

    Args:
        number: counts this process's beats.
        queue: calls that wait.
        current: when the computation that runs now began, in nanoseconds of the shard's clock; 0 if none does.
        progress: grows while computations get on, by about one a millisecond of the computing thread's CPU time and one
            a computation: a shard that beats without progress hangs, one that is only slow does not.
        draining: the shard is about to end: other replicas are to be asked first.
    """

    number: int
    queue: int
    current: int
    progress: int
    draining: bool = False

    def packed(self) -> bytes:
        """The payload."""
        return _BEAT.pack(*self[:4], _DRAINING if self.draining else 0)

    @classmethod
    def unpacked(cls, payload: Buffer) -> "Beat":
        """The reverse. Raises `FrameError`: the length is wrong."""
        number, queue, current, progress, flags = _numbers(_BEAT, payload)
        return cls(number, queue, current, progress, bool(flags & _DRAINING))


class Copy(NamedTuple):
    """Which expert's bytes, from the one at `offset` on, and how many at most."""

    layer: int
    expert: int
    offset: int
    most: int

    def packed(self) -> bytes:
        """The payload."""
        return _COPY.pack(*self)

    @classmethod
    def unpacked(cls, payload: Buffer) -> "Copy":
        """The reverse. Raises `FrameError`: the length is wrong."""
        return cls(*_numbers(_COPY, payload))


class Piece(NamedTuple):
    """How many bytes the expert has in all, and their SHA-256; the piece asked for follows in the same payload."""

    total: int
    digest: bytes

    def packed(self) -> bytes:
        """The beginning of the payload."""
        return _PIECE.pack(*self)

    @classmethod
    def unpacked(cls, payload: Buffer) -> tuple["Piece", Buffer]:
        """The reverse, and the piece. Raises `FrameError`: the payload is too short, or longer than it says."""
        if len(payload) < _PIECE.size:
            raise FrameError("length", f"a PIECE of {len(payload)} bytes has no room for its {_PIECE.size} numbers")
        piece = cls(*_PIECE.unpack_from(payload))
        if len(payload) - _PIECE.size > piece.total:
            raise FrameError("length", f"a PIECE of {len(payload)} bytes for an expert of {piece.total}")
        return piece, payload[_PIECE.size :]


def _numbers(form: struct.Struct, payload: Buffer, exact: bool = True) -> tuple[int, ...]:
    if len(payload) < form.size or (exact and len(payload) > form.size):
        raise FrameError("length", f"a payload of {len(payload)} bytes where {form.size} are due")
    return form.unpack_from(payload)
