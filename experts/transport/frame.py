"""The frame that every ExpertMesh socket carries: a fixed header, then `length` bytes of payload.

Header, little-endian, 40 bytes:

    magic 4s | version u8 | kind u8 | flags u8 | 0 u8 | incarnation u64 | sequence u64 | length u64 | checksum u32 | 0

`incarnation` is the serving process's own number, drawn when it starts: a frame meant for a process that has died
since is refused by its successor. `sequence` pairs a reply with its call. `checksum` is the CRC-32 of the
payload when flag 1 is set.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview

MAGIC = b"EMFR"
# 2: the handshake proves the deployment's digest too. 3: calls and replies say which form the answer has. 4: calls name
# experts by their ids; misses, cancels and beats.
VERSION = 4
FLAG_CHECKSUM = 1
HEADER = struct.Struct("<4sBBBBQQQII")
MAX_PAYLOAD_BYTES = 1 << 30


class FrameError(ConnectionError):
    """Bytes that are not a valid frame; the connection that they came from must be closed.

    `reason` is a short word for the counter of refused connections.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Kind(IntEnum):
    """What a frame's payload holds."""

    CHALLENGE = 1
    PROOF = 2
    WELCOME = 3
    EXPERTS = 4
    PARTIALS = 5
    FAILURE = 6
    STATUS = 7
    MESSAGE = 8
    REFUSAL = 9
    SHARE = 10
    HELLO = 11
    MISS = 12
    BUSY = 13
    CANCEL = 14
    BEAT = 15
    COPY = 16
    PIECE = 17


# Looked up for each frame: an enum's own call takes longer.
_KINDS = {int(kind): kind for kind in Kind}


class Header(NamedTuple):
    """A parsed header; `length` and `checksum` speak of the payload that follows it."""

    kind: Kind
    flags: int
    incarnation: int
    sequence: int
    length: int
    checksum: int


def checksum_of(parts: Iterable[Buffer]) -> int:
    """CRC-32 of the concatenation of `parts`."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def pack_header(kind: Kind, incarnation: int, sequence: int, parts: Iterable[Buffer], checksum: bool = False) -> bytes:
    """Return the 40 header bytes for a payload made of `parts` (each of byte format)."""
    parts = tuple(parts)
    length = sum(map(len, parts))
    flags, value = (FLAG_CHECKSUM, checksum_of(parts)) if checksum else (0, 0)
    return HEADER.pack(MAGIC, VERSION, kind, flags, 0, incarnation, sequence, length, value, 0)


def parse_header(data: Buffer, max_payload: int = MAX_PAYLOAD_BYTES) -> Header:
    """Parse 40 bytes.

    Raises:
        FrameError: `magic`, `version`, `kind` or `length` is not one that we send.
    """
    if len(data) != HEADER.size:
        raise FrameError("short", f"a header has {HEADER.size} bytes, not {len(data)}")
    magic, version, kind, flags, _, incarnation, sequence, length, value, _ = HEADER.unpack(data)
    if magic != MAGIC:
        raise FrameError("magic", f"not an ExpertMesh frame: it begins with {magic!r}")
    if version != VERSION:
        raise FrameError("version", f"frame version {version}, this process speaks {VERSION}")
    if length > max_payload:
        raise FrameError("length", f"a payload of {length} bytes is over the limit of {max_payload}")
    known = _KINDS.get(kind)
    if known is None:
        raise FrameError("kind", f"unknown frame kind {kind}")
    return Header(known, flags, incarnation, sequence, length, value)


def check_payload(header: Header, parts: Sequence[Buffer]) -> None:
    """Compare the payload, given in parts, with the header's checksum, if it carries one.

    Raises:
        FrameError: the bytes were damaged on the way.
    """
    if header.flags & FLAG_CHECKSUM and checksum_of(parts) != header.checksum:
        raise FrameError("checksum", f"checksum of frame {header.sequence} does not match its {header.length} bytes")
