"""Server-sent events (WHATWG HTML, section 9.2) on an aiohttp response."""

import asyncio

from aiohttp import web

from router_service.front.errors import not_read


def event(kind: str, data: bytes) -> bytes:
    """Return one event; `data` is a single line, as JSON is."""
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


class EventStream:
    """A response that is a stream of events. A page that reads nothing for `patience_s` loses its connection."""

    def __init__(self, request: web.Request, patience_s: float, **headers: str) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"} | headers)
        self._request = request
        self._patience_s = patience_s

    async def open(self) -> None:
        """Send the headers."""
        await self.response.prepare(self._request)

    async def write(self, data: bytes) -> None:
        """Send events; waits while the page does not read.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, it has not read in time; its connection is closed.
        """
        try:
            async with asyncio.timeout(self._patience_s):
                await self.response.write(data)
        except TimeoutError as error:
            # An orderly close would wait for the page.
            if self._request.transport is not None:
                self._request.transport.abort()
            raise not_read(self._patience_s) from error
