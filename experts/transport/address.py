"""Where a process of the cluster can be reached, and how to dial it."""

import os
import secrets
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A process that serves framed sockets: who it is, which life of it this is, and its two addresses.

    `unix_path` serves peers on the same `node`, `host` and `port` the others.
    """

    role: str
    index: int
    replica: str
    incarnation: int
    node: str
    host: str
    port: int
    unix_path: str
    pid: int


def new_incarnation() -> int:
    """Return a random 63-bit number that names one life of a process."""
    return secrets.randbits(63)


def dial(endpoint: Endpoint, node: str, timeout_s: float) -> socket.socket:
    """Connect to `endpoint` from `node`: the unix socket on the same node, TCP from another.

    Raises:
        OSError: nothing answers there within `timeout_s` seconds.
    """
    if endpoint.unix_path and endpoint.node == node:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect(endpoint.unix_path)
        except OSError:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def listen_unix() -> tuple[socket.socket, str]:
    """Listen on a fresh unix socket in a private temporary directory; return it and its path."""
    path = str(Path(tempfile.mkdtemp(prefix="expertmesh-")) / "s")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    os.chmod(path, 0o600)
    sock.listen(128)
    return sock, path


def listen_tcp(host: str) -> tuple[socket.socket, int]:
    """Listen on a free TCP port of `host`; return the socket and the port."""
    sock = socket.create_server((host, 0), backlog=128)
    port: int = sock.getsockname()[1]
    return sock, port


def unlink_unix(path: str) -> None:
    """Remove a unix socket made by `listen_unix` together with its directory."""
    Path(path).unlink(missing_ok=True)
    if (parent := Path(path).parent).is_dir():
        parent.rmdir()
