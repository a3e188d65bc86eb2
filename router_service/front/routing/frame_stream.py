"""Frames on asyncio streams, and the client's half of the handshake."""

import asyncio
import contextlib
import socket

from experts.transport.address import Endpoint
from experts.transport.frame import HEADER, FrameError, Kind, check_payload, pack_header, parse_header
from experts.transport.handshake import check_welcome, client_proof, new_nonce
from experts.transport.secret import Secret

MAX_HANDSHAKE_BYTES = 256
# A step's outputs with routing and log-probabilities are the largest messages.
MAX_MESSAGE_BYTES = 64 << 20


class Wire:
    """A connection that carries frames of one server process, named by its incarnation."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, incarnation: int, checksum: bool
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._incarnation = incarnation
        self._checksum = checksum
        self._sequence = 0

    async def receive(self, expected: Kind, limit: int = MAX_MESSAGE_BYTES) -> bytes:
        """Return the next frame's payload.

        Raises:
            FrameError: it is of another kind or incarnation, too long, or damaged.
            EOFError: the peer has closed.
            OSError: the connection broke.
        """
        header = parse_header(await self._reader.readexactly(HEADER.size), limit)
        if header.incarnation != self._incarnation:
            raise FrameError("incarnation", f"a frame of process {header.incarnation}, not {self._incarnation}")
        if header.kind is not expected:
            raise FrameError("kind", f"a frame of kind {header.kind.name}, not {expected.name}")
        payload = await self._reader.readexactly(header.length)
        check_payload(header, payload)
        return payload

    def send(self, kind: Kind, payload: bytes) -> None:
        """Queue a frame; `drain` waits until the peer has taken most of what is queued."""
        if self._writer.is_closing():
            return
        self._writer.write(pack_header(kind, self._incarnation, self._sequence, (payload,), self._checksum))
        self._writer.write(payload)
        self._sequence += 1

    async def drain(self) -> None:
        """Wait while too much is queued.

        Raises:
            OSError: the connection broke.
        """
        await self._writer.drain()

    async def close(self) -> None:
        """Close without waiting for what is queued."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def connect(endpoint: Endpoint, node: str, secret: Secret, checksum: bool = False) -> Wire:
    """Connect from `node` to `endpoint` (unix socket on the same node, else TCP) and prove the secret both ways.

    Raises:
        OSError: nothing answers there (a FrameError: what answers is not the process that `endpoint` names).
        EOFError: the peer has closed, as it does when it refuses our proof.
    """
    if endpoint.unix_name and endpoint.node == node:
        reader, writer = await asyncio.open_unix_connection(sock=_dial_unix(endpoint))
    else:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    wire = Wire(reader, writer, endpoint.incarnation, checksum)
    try:
        await _prove(wire, secret, endpoint.incarnation)
    except BaseException:
        await wire.close()
        raise
    return wire


def _dial_unix(endpoint: Endpoint) -> socket.socket:
    """Connect here, which a unix socket does at once: uvloop cannot reach names of the abstract namespace."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect(endpoint.unix_address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _prove(wire: Wire, secret: Secret, incarnation: int) -> None:
    challenge = await wire.receive(Kind.CHALLENGE, MAX_HANDSHAKE_BYTES)
    nonce = new_nonce()
    wire.send(Kind.PROOF, client_proof(secret, challenge, nonce, incarnation))
    welcome = await wire.receive(Kind.WELCOME, MAX_HANDSHAKE_BYTES)
    check_welcome(secret, challenge, nonce, welcome, incarnation)
