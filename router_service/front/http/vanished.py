"""Clients that vanish without a word: the kernel ends their connections, and with them what they have open."""

import socket
from ssl import SSLContext

from aiohttp import web

# After ten seconds without data a client is asked for a sign of life, and again every five.
IDLE_SECONDS = 10
AGAIN_SECONDS = 5
# What waits in the kernel for a client that does not read; by itself it would take megabytes before anyone noticed.
SEND_BUFFER_BYTES = 256 << 10
# Connections that wait to be accepted: all clients of a server that restarts come at once.
BACKLOG = 1024


class NoticingSite(web.SockSite):
    """A site whose connections end when their clients have vanished, from before the first byte of a request on.

    That takes 15 s more than `patience_s`, after which a client that does not read loses its stream: the kernel cannot
    tell such a client from one that has vanished.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        *,
        patience_s: float,
        host: str,
        port: int,
        ssl_context: SSLContext | None = None,
        reuse_port: bool = False,
    ) -> None:
        """Bind the address.

        Raises:
            OSError: it cannot be bound.
        """
        super().__init__(runner, _listener(host, port, reuse_port, patience_s), ssl_context=ssl_context)


def _listener(host: str, port: int, reuse_port: bool, patience_s: float) -> socket.socket:
    """Return a bound socket. Connections inherit its options; event loops other than asyncio's own let no one set them
    on the sockets that they open themselves.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=reuse_port)
    for option in noticing_options(patience_s):
        listener.setsockopt(*option)
    return listener


def noticing_options(patience_s: float) -> list[tuple[int, int, int]]:
    """Return level, name and value of the options of a listening socket; see `NoticingSite`."""
    return [
        (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, AGAIN_SECONDS),
        # Decides for probes and for data that nobody acknowledges.
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * (patience_s + IDLE_SECONDS + AGAIN_SECONDS))),
    ]
