"""Browsers that vanish without a word: the kernel ends their connections, and with them what they have open."""

import socket

from aiohttp import web
from aiohttp.typedefs import Handler

# As for gRPC's connections: after ten seconds without data they are asked for a sign of life, and have five to answer.
IDLE_SECONDS = 10
ANSWER_SECONDS = 5
OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ANSWER_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1),
    # Of data that is not acknowledged, which would be sent again for a quarter of an hour.
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (IDLE_SECONDS + ANSWER_SECONDS)),
)


@web.middleware
async def notice_vanished(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Have the request's connection end when its client has vanished."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        for option in OPTIONS:
            connection.setsockopt(*option)
    return await handler(request)
