"""Server-sent events (WHATWG HTML, section 9.2) on an aiohttp response."""

from aiohttp import web


def event(kind: str, data: bytes) -> bytes:
    """Return one event; `data` is a single line, as JSON is."""
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


async def open_stream(request: web.Request, **headers: str) -> web.StreamResponse:
    """Start a response that is a stream of events."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"} | headers)
    await response.prepare(request)
    return response
