"""Responses that are one JSON object."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec
from aiohttp import web

from router_service.front.openai.calling import Call

# A reply with more entries is made on a thread: on the event loop other streams would wait for it.
LARGE_ENTRIES = 2000


class Reply(Protocol):
    """A reply that is not made yet."""

    @property
    def entries(self) -> int:
        """How many entries its lists have."""

    @property
    def reply(self) -> Callable[[], bytes]:
        """Makes it."""


async def made(reply: Reply) -> bytes:
    """Return a reply's JSON."""
    return reply.reply() if reply.entries <= LARGE_ENTRIES else await asyncio.to_thread(reply.reply)


def json_reply(body: bytes, call: Call | None = None) -> web.Response:
    """Return a response; with the id of the request that it answers, if there is one."""
    headers = call.headers if call is not None else None
    return web.Response(body=body, content_type="application/json", headers=headers)


def object_reply(reply: msgspec.Struct) -> web.Response:
    """Return an object as a response."""
    return json_reply(msgspec.json.encode(reply))
