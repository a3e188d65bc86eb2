"""Frames between the Front and its template's process: a length of four bytes, then JSON."""

import json
import socket
import struct
import time
from typing import Any

LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 256 << 20


def send(link: socket.socket, message: dict[str, Any]) -> None:
    """Send a message; lone surrogates, which a template can produce, are kept.

    Raises:
        ValueError: the message is too long.
        OSError: the peer has closed, or does not read within the socket's timeout.
    """
    data = json.dumps(message, ensure_ascii=False).encode("utf-8", errors="surrogatepass")
    if len(data) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(data)} bytes, at most {MAX_FRAME_BYTES} are allowed")
    link.sendall(LENGTH.pack(len(data)) + data)


def receive(link: socket.socket, seconds: float | None = None) -> dict[str, Any]:
    """Return the next message, waiting at most `seconds`.

    Raises:
        TimeoutError: it did not arrive in time.
        EOFError: the peer has closed, or announces too long a message.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    (length,) = LENGTH.unpack(_read(link, LENGTH.size, deadline))
    if length > MAX_FRAME_BYTES:
        raise EOFError(f"a message of {length} bytes")
    message: dict[str, Any] = json.loads(_read(link, length, deadline).decode("utf-8", errors="surrogatepass"))
    return message


def _read(link: socket.socket, length: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < length:
        if deadline is not None:
            # A timeout of 0 would make the socket non-blocking instead.
            link.settimeout(max(1e-3, deadline - time.monotonic()))
        piece = link.recv(min(1 << 20, length - len(data)))
        if not piece:
            raise EOFError("the other side has closed")
        data += piece
    return bytes(data)
