"""Opens connections that carry frames over asyncio streams."""

import asyncio
import contextlib
import socket

from experts.transport.address import Endpoint
from experts.transport.frame import HEADER, FrameError, Kind, check_payload, pack_header, parse_header
from experts.transport.trust.credentials import Credentials
from experts.transport.trust.handshake import Handshake, client_handshake
from router_service.protocol.messages import MAX_MESSAGE_BYTES

# Of a payload that is read in parts, so that whoever watches `received` sees that it goes on.
PART_BYTES = 1 << 18


class Wire:
    """A connection to one server process, identified by its incarnation. `received` counts the bytes of frames."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, incarnation: int, checksum: bool
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._incarnation = incarnation
        self._checksum = checksum
        self._sequence = 0
        self.received = 0

    async def receive(self, expected: Kind, limit: int = MAX_MESSAGE_BYTES) -> bytes:
        """Return the next frame's payload.

        Raises:
            FrameError: it is of another kind or incarnation, too long, or damaged.
            EOFError: the peer has closed.
            OSError: the connection broke.
        """
        header = parse_header(await self._read(HEADER.size), limit)
        if header.incarnation != self._incarnation:
            raise FrameError("incarnation", f"a frame of process {header.incarnation}, not {self._incarnation}")
        if header.kind is not expected:
            raise FrameError("kind", f"a frame of kind {header.kind.name}, not {expected.name}")
        sizes = [PART_BYTES] * (header.length // PART_BYTES) + [header.length % PART_BYTES]
        parts = [await self._read(size) for size in sizes]
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        check_payload(header, [payload])
        return payload

    def send(self, kind: Kind, payload: bytes) -> None:
        """Queue a frame; `drain` waits until most of the queue is sent."""
        # Nothing to raise: whoever reads the connection notices its end and fails the streams.
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

    async def run_handshake(self, handshake: Handshake) -> None:
        """Complete `handshake`, before any other frame.

        Raises:
            FrameError: the peer does not prove the credentials.
            EOFError: the peer has closed.
            OSError: the connection broke.
        """
        while not handshake.proven:
            self._writer.write(handshake.turn.out)
            handshake.advance(await self._reader.readexactly(handshake.turn.want))

    def abort(self) -> None:
        """Break the connection without sending what is queued: `receive` raises."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close without sending what is queued."""
        self.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self, size: int) -> bytes:
        part = await self._reader.readexactly(size)
        self.received += size
        return part


async def connect(endpoint: Endpoint, node: str, credentials: Credentials, checksum: bool = False) -> Wire:
    """Connect from `node` to `endpoint` (unix socket on the same node, else TCP) and prove the credentials both ways.

    Raises:
        OSError: nothing accepts the connection. FrameError: the peer is not the process that `endpoint` names or, with
            reason `digest`, belongs to another deployment.
        EOFError: the peer has closed, as it does when it refuses our proof.
    """
    if endpoint.unix_name and endpoint.node == node:
        reader, writer = await asyncio.open_unix_connection(sock=_dial_unix(endpoint))
    else:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    wire = Wire(reader, writer, endpoint.incarnation, checksum)
    try:
        await wire.run_handshake(client_handshake(credentials, endpoint.incarnation))
    except BaseException:
        # Whatever happened, cancellation included, the socket must not stay open.
        await wire.close()
        raise
    return wire


def _dial_unix(endpoint: Endpoint) -> socket.socket:
    """Connect the socket here, which does not block for a unix socket: uvloop cannot use abstract names."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.connect(endpoint.unix_address)
    except BaseException:
        sock.close()
        raise
    return sock
