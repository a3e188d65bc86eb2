"""Browsers that vanish without a word: the kernel ends their connections, and with them what they have open."""

import socket

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

# After ten seconds without data a client is asked for a sign of life, and again every five.
IDLE_SECONDS = 10
AGAIN_SECONDS = 5
# What waits in the kernel for a page that does not read; by itself it would take megabytes before anyone noticed.
SEND_BUFFER_BYTES = 256 << 10


def notice_vanished(patience_s: float) -> Middleware:
    """Return a middleware that has a request's connection end when its client has vanished.

    That takes 15 s more than `patience_s`, after which a page that does not read loses its stream: the kernel cannot
    tell such a page from one that has vanished.
    """
    options = (
        (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, AGAIN_SECONDS),
        # Decides for probes and for data that nobody acknowledges.
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * (patience_s + IDLE_SECONDS + AGAIN_SECONDS))),
    )

    @web.middleware
    async def notice(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.transport is not None:
            connection = request.transport.get_extra_info("socket")
            for option in options:
                connection.setsockopt(*option)
        return await handler(request)

    return notice
