"""Where a process of the cluster can be reached, and how to connect to it.

The unix sockets have names in Linux's abstract namespace: a process that is killed leaves no file behind, and two
clusters cannot clash. Anyone on the node may connect to them, as to a port; the handshake authenticates peers.
"""

import secrets
import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A process that serves framed sockets: its identity, its incarnation and its two addresses.

    `unix_name` serves peers on the same `node`, `host` and `port` the others.
    """

    role: str
    index: int
    replica: str
    incarnation: int
    node: str
    host: str
    port: int
    unix_name: str
    pid: int

    @property
    def unix_address(self) -> str:
        """What `connect` takes for the unix socket."""
        return "\0" + self.unix_name


def new_incarnation() -> int:
    """Return a random 63-bit number for one run of a process: a restarted one gets another."""
    return secrets.randbits(63)


def dial(endpoint: Endpoint, node: str, timeout_s: float) -> socket.socket:
    """Connect to `endpoint` from `node`: the unix socket on the same node, TCP from another.

    Raises:
        OSError: nothing answers there within `timeout_s` seconds.
    """
    if endpoint.unix_name and endpoint.node == node:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect(endpoint.unix_address)
        except OSError:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s)
    # A call ends in a partly filled packet, which would otherwise wait for the acknowledgement of the one before.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def listen_unix() -> tuple[socket.socket, str]:
    """Listen on a fresh abstract unix socket; return it and its name."""
    name = f"expertmesh-{secrets.token_hex(12)}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind("\0" + name)
    sock.listen(128)
    return sock, name


def listen_tcp(host: str) -> tuple[socket.socket, int]:
    """Listen on a free TCP port of `host`; return the socket and the port."""
    sock = socket.create_server((host, 0), backlog=128)
    port: int = sock.getsockname()[1]
    return sock, port
