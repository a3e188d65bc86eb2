"""Rows in memory that a router and a shard on one machine share. The socket carries all the rest, and rings the bell.

Each connection has two regions of its own, one for the rows of its calls and one for those of its replies. Calls and
replies take turns, so neither needs an index, a lock or a ring: a frame on the socket says that rows have been written,
and lengths and indices travel in that frame. What a peer writes at a wrong time can only spoil its own rows. A process
that dies leaves the other's mapping as it was, and its end of the socket says that it has gone.

The shard makes the regions, for whoever has proven the secret on this very connection, and passes their descriptors
(SCM_RIGHTS). They are sealed (memfd_create(2)): no peer can shrink one under a reader, who would get SIGBUS.
"""

import array
import contextlib
import fcntl
import mmap
import os
import socket
import struct
from typing import NamedTuple

from experts.transport.frame import HEADER, MAX_PAYLOAD_BYTES, FrameError, Kind, pack_header, parse_header

SIZES = struct.Struct("<QQ")
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
REGIONS = 2


class SharedSizes(NamedTuple):
    """Bytes of a connection's two regions. Memory is taken as they are written to, up to so much."""

    calls: int
    replies: int


class SharedRows(NamedTuple):
    """A connection's regions as bytes: the router writes `calls`, the shard writes `replies`."""

    calls: memoryview
    replies: memoryview


def ask_for(sock: socket.socket, incarnation: int, sizes: SharedSizes) -> SharedRows | None:
    """The router's side: ask the shard on a fresh connection for regions; None where it has none to give.

    Raises:
        OSError: the connection failed (a `FrameError`: the reply is none of ours).
    """
    request = SIZES.pack(*(min(size, MAX_PAYLOAD_BYTES) for size in sizes))
    sock.sendall(pack_header(Kind.SHARE, incarnation, 0, [request]) + request)
    want = HEADER.size + SIZES.size
    data, descriptors, _, _ = socket.recv_fds(sock, want, REGIONS, socket.MSG_WAITALL | socket.MSG_CMSG_CLOEXEC)
    try:
        given = _parsed(data, incarnation)
        if len(descriptors) != REGIONS:  # whatever lies between does not pass them on, or the shard has none
            return None
        return SharedRows(*(_mapped(fd, size) for fd, size in zip(descriptors, given, strict=True)))
    finally:
        for fd in descriptors:
            os.close(fd)


def give(sock: socket.socket, incarnation: int, sequence: int, request: bytes) -> SharedRows | None:
    """The shard's side: make regions of the sizes in `request` and reply with them; None where there can be none.

    Raises:
        FrameError: the request is none of ours, or asks for more than frames could carry.
        OSError: the connection failed.
    """
    if len(request) != SIZES.size or max(sizes := SharedSizes(*SIZES.unpack(request))) > MAX_PAYLOAD_BYTES:
        raise FrameError("length", f"a request for shared memory has {SIZES.size} bytes and at most 1 GiB a region")
    with contextlib.ExitStack() as stack:
        descriptors: list[int] = []
        rows = None
        if sock.family == socket.AF_UNIX and min(sizes) > 0:
            with contextlib.suppress(OSError):  # no memory or descriptors are left: then rows go by the socket
                for size in sizes:
                    descriptors.append(_region(size))
                    stack.callback(os.close, descriptors[-1])
                rows = SharedRows(*(_mapped(fd, size) for fd, size in zip(descriptors, sizes, strict=True)))
        reply = SIZES.pack(*sizes)
        frame = pack_header(Kind.SHARE, incarnation, sequence, [reply]) + reply
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if rows else []
        sock.sendmsg([frame], rights)
    return rows


def _parsed(data: bytes, incarnation: int) -> SharedSizes:
    if len(data) < HEADER.size + SIZES.size:
        raise FrameError("short", "the connection ended in the reply to a request for shared memory")
    header = parse_header(data[: HEADER.size])
    if (header.kind, header.incarnation, header.length) != (Kind.SHARE, incarnation, SIZES.size):
        raise FrameError("kind", f"a {header.kind.name} frame in reply to a request for shared memory")
    return SharedSizes(*SIZES.unpack(data[HEADER.size :]))


def _region(size: int) -> int:
    fd = os.memfd_create("expertmesh-rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def _mapped(fd: int, size: int) -> memoryview:
    """Map a region, whoever made it.

    Raises:
        FrameError: it could shrink, or is smaller than was said.
    """
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    except OSError:  # not a memfd
        sealed = 0
    if not sealed or os.fstat(fd).st_size < size:
        raise FrameError("shared", f"a shared region must be sealed and have {size} bytes")
    return memoryview(mmap.mmap(fd, size)).cast("B")
