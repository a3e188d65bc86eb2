"""A response of server-sent events in OpenAI's form: `data:` lines only."""

import asyncio

from aiohttp import web

from router_service.front.errors import RequestError
from router_service.front.http.server_sent_events import EventStream
from router_service.front.openai.calling import Call
from router_service.front.openai.errors import encoded

# Proxies such as nginx would hold events back.
HEADERS = {"X-Accel-Buffering": "no"}


class OpenEvents:
    """Opens the response with its first event, so that what fails before has a status of its own."""

    def __init__(self, call: Call, patience_s: float) -> None:
        self.http = call.http
        self.opened = False
        self.lost = False  # whether the client has stopped to read
        self._stream = EventStream(call.http, patience_s, **HEADERS, **call.headers)
        self._opening = asyncio.Lock()

    @property
    def response(self) -> web.StreamResponse:
        """The response."""
        return self._stream.response

    async def write(self, data: bytes) -> None:
        """Send events; waits while the client does not read.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, it has not read in time; its connection is closed.
        """
        if not self.opened:
            await self._open()
        try:
            await self._stream.write(data)
        except RequestError:
            self.lost = True
            raise

    async def _open(self) -> None:
        async with self._opening:  # several answers may begin at once
            if not self.opened:
                await self._stream.open()
                self.opened = True


def error_event(error: RequestError) -> bytes:
    """Return the event that ends a stream that failed."""
    return b"data: " + encoded(error) + b"\n\n"
