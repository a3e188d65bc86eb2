"""Authentication and limits for the Front's HTTP server, by the same tokens as for gRPC."""

from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from router_service.front.api.scheduling import set_caller
from router_service.front.auth.authenticator import Authenticator, needed_page_role
from router_service.front.auth.paths import GENERATING
from router_service.front.auth.refusals import RefusedError
from router_service.front.auth.tokens import Caller, Role
from router_service.front.http.body import read_raw

# Paths whose responses count among the streams of their caller.
STREAMS = GENERATING | {"/live", "/api/generate"}
# Who makes a request, where it needed a role.
CALLER = web.RequestKey("caller", Caller)


def ask_for_token(authenticator: Authenticator, files: Container[str]) -> Middleware:
    """Return a middleware that authenticates callers and enforces their limits; refusals are logged and counted.

    `files` are the paths of the page's own files, which need no token.
    """

    @web.middleware
    async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
        needed = needed_page_role(request.path, files)
        if needed is None:
            return await handler(request)
        caller = authenticator.authorize(request.headers, needed, request.remote or "?", request.path)
        set_caller(caller.name, _connection(request))
        request[CALLER] = caller
        with ExitStack() as place:
            with _noted(authenticator, request):
                authenticator.check_size(caller, await _size(request))
                if request.path in STREAMS:
                    place.enter_context(authenticator.stream(caller))
            return await handler(request)

    return ask


@contextmanager
def more_streams(authenticator: Authenticator, request: web.Request, count: int) -> Iterator[None]:
    """Count `count` more requests and streams of the request's caller, for one that is several requests at once.

    Raises:
        RefusedError: it may not have so many.
    """
    with ExitStack() as places:
        for _ in range(count):
            authenticator.authorize(request.headers, Role.INFERENCE, request.remote or "?", request.path)
        with _noted(authenticator, request):
            for _ in range(count):
                places.enter_context(authenticator.stream(request[CALLER]))
        yield


@contextmanager
def _noted(authenticator: Authenticator, request: web.Request) -> Iterator[None]:
    """Log and count a refusal."""
    try:
        yield
    except RefusedError as error:
        authenticator.refusals.note(error, request.remote or "?", request.path)
        raise


def _connection(request: web.Request) -> str:
    """Return the client's address and port."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return f"http:{peer or request.remote}"


async def _size(request: web.Request) -> int:
    """Return the body's size in bytes; a body without a length, or a compressed one, is read first.

    Reading stops at the limit of its path. As with gRPC, the size after decompression counts.
    """
    if request.method in (hdrs.METH_GET, hdrs.METH_HEAD):
        return 0
    if request.content_length is not None and hdrs.CONTENT_ENCODING not in request.headers:
        return request.content_length
    return len(await read_raw(request))
