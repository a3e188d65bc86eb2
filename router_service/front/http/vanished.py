"""Clients that vanish without a word: the kernel ends their connections, and with them what they have open."""

import asyncio
import socket
from typing import Any

from aiohttp import web

# After ten seconds without data a client is asked for a sign of life, and again every five.
IDLE_SECONDS = 10
AGAIN_SECONDS = 5
# What waits in the kernel for a client that does not read; by itself it would take megabytes before anyone noticed.
SEND_BUFFER_BYTES = 256 << 10


class NoticingSite(web.TCPSite):
    """A site whose connections end when their clients have vanished, from before the first byte of a request on.

    That takes 15 s more than `patience_s`, after which a client that does not read loses its stream: the kernel cannot
    tell such a client from one that has vanished.
    """

    def __init__(self, runner: web.AppRunner, *, patience_s: float, **options: Any) -> None:
        super().__init__(runner, **options)
        self._patience_s = patience_s

    async def start(self) -> None:
        """Listen. Connections inherit the options of the socket that listens."""
        await super().start()
        assert isinstance(self._server, asyncio.Server)
        for listener in self._server.sockets:
            for option in noticing_options(self._patience_s):
                listener.setsockopt(*option)


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
