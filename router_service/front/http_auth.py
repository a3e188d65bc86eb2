"""The gate in front of the live page's server: who asks, and within which limits; the same tokens as for gRPC."""

from contextlib import ExitStack

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from router_service.front.auth import Gate, needed_page_role
from router_service.front.http_body import read_raw
from router_service.front.refusals import RefusedError
from router_service.front.tokens import Caller

# What is answered with a stream of events.
STREAMS = ("/live", "/api/generate")


def ask_for_token(gate: Gate) -> Middleware:
    """Return a middleware that lets in who may come in, and counts what each uses; refusals are logged and counted."""

    @web.middleware
    async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
        needed = needed_page_role(request.path)
        if needed is None or not gate.asks:
            return await handler(request)
        caller = gate.authorize(request.headers, needed, request.remote or "?", request.path)
        with ExitStack() as place:
            try:
                gate.check_size(caller, await _size(request, caller))
                if request.path in STREAMS:
                    place.enter_context(gate.stream(caller))
            except RefusedError as error:
                gate.refusals.note(error, request.remote or "?", request.path)
                raise
            return await handler(request)

    return ask


async def _size(request: web.Request, caller: Caller) -> int:
    """The body's size in bytes; one that does not say it is read for that, as far as a page's may go."""
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD) or caller.max_request_bytes is None:
        return 0
    return request.content_length if request.content_length is not None else len(await read_raw(request))
