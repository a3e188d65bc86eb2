"""Headers and errors of the Front's HTTP server, and protection against requests of other sites."""

import logging
from http import HTTPStatus

import grpc
import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from router_service.front.auth.paths import is_openai
from router_service.front.auth.refusals import RefusedError
from router_service.front.config import is_loopback
from router_service.front.errors import RequestError

logger = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A cached page must not meet a newer server.
    "Cache-Control": "no-store",
}


class NotOursError(RequestError):
    """A request made by another site's page, or without an Origin. Nothing that a stranger sent is sent back."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.PERMISSION_DENIED, message)


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add the common headers to a response."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return every error as one JSON object."""
    try:
        return await handler(request)
    except RefusedError as error:
        asked = {"WWW-Authenticate": "Bearer"} if error.http_status == HTTPStatus.UNAUTHORIZED else {}
        headers = {name.title(): value for name, value in error.headers} | asked
        return error_response(error.http_status, error.code.name, error.message, headers)
    except RequestError as error:
        if request.transport is None or request.transport.is_closing():
            raise ConnectionResetError(error.message) from error  # nobody to respond to
        return error_response(error.http_status, error.code.name, error.message)
    except web.HTTPException as error:
        allowed = {str(hdrs.ALLOW): error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else None
        return error_response(error.status, error.reason.upper().replace(" ", "_"), _problem(request, error), allowed)
    except ConnectionError:  # the page has disconnected: nobody to respond to
        raise
    except Exception as error:
        logger.exception("a request of the live page failed")
        fault = RequestError(grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}: {error}")
        return error_response(fault.http_status, fault.code.name, fault.message)


def check_own_page(loopback: bool) -> Middleware:
    """Return a middleware that accepts a POST only from our own page, by its Origin, and only as JSON.

    The OpenAI API is for programs, which send no Origin; a browser sends one, and another site's is refused there too.
    On `loopback` the Host must be a loopback name too, against DNS rebinding: an attacker's name that resolves to this
    machine is refused.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if loopback and not _is_loopback(request.host):
            raise NotOursError("Host is no loopback name, as this server's is: open http://127.0.0.1 or localhost")
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            _check_origin(request)
        return await handler(request)

    return check


def error_response(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """Return an error as JSON."""
    body = msgspec.json.encode({"error": message, "code": code})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def _is_loopback(authority: str) -> bool:
    host, colon, port = authority.rpartition(":")
    return is_loopback(host if colon and port.isdecimal() else authority)


def _check_origin(request: web.Request) -> None:
    origin, site = request.headers.get(hdrs.ORIGIN), request.headers.get("Sec-Fetch-Site", "same-origin")
    program = origin is None and is_openai(request.path)
    if site != "same-origin" or not (program or (origin or "").partition("://")[2] == request.host):
        raise NotOursError("Origin is not this server's page, and actions are taken from that only")
    # A form of another site can send text/plain without a preflight, but not JSON.
    if not program and request.content_type != "application/json":
        raise NotOursError("Content-Type must be application/json")


def _problem(request: web.Request, error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPNotFound):
        return f"there is nothing at {request.path!r}; the page is at /"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.method} is not taken at {request.path!r}, only {', '.join(sorted(error.allowed_methods))}"
    return error.text or error.reason
