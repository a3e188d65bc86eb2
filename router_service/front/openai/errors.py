"""Errors in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`, in the words of the gRPC API."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus

import grpc
import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from router_service.front.auth.paths import is_openai
from router_service.front.auth.refusals import RefusedError
from router_service.front.errors import RequestError, invalid

logger = logging.getLogger(__name__)

TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
CODES = {HTTPStatus.UNAUTHORIZED: "invalid_api_key"}
# Where nobody knows when a place will be free; clients double it themselves.
RETRY_SECONDS = "1"


class ErrorBody(msgspec.Struct, frozen=True):
    """What went wrong: `param` is the field of the request that is wrong, `code` a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(msgspec.Struct, frozen=True):
    """The body of every error, and the last event of a stream that failed."""

    error: ErrorBody


class ModelNotFoundError(RequestError):
    """The request names another model than the one that is served."""

    def __init__(self, message: str) -> None:
        super().__init__(grpc.StatusCode.NOT_FOUND, message, "model")


@web.middleware
async def openai_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return errors of the OpenAI API's paths in OpenAI's form; those of others pass."""
    if not is_openai(request.path):
        return await handler(request)
    try:
        return await handler(request)
    except RequestError as error:
        if request.transport is None or request.transport.is_closing():
            raise ConnectionResetError(error.message) from error  # nobody to respond to
        return error_response(error)
    except web.HTTPException as error:
        return _http_error(request, error)
    except ConnectionError:  # the client has disconnected
        raise
    except RecursionError:
        return error_response(invalid("body", "nests too deep: send objects and lists of fewer levels"))
    except Exception as error:
        logger.exception("a request of the OpenAI API failed")
        return error_response(internal(error))


def error_response(error: RequestError) -> web.Response:
    """Return the response of an error that comes before an answer."""
    status = status_of(error)
    headers = dict(error.headers) if isinstance(error, RefusedError) else {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        headers.setdefault("retry-after", RETRY_SECONDS)
    return _response(status, encoded(error), {name.title(): value for name, value in headers.items()})


def encoded(error: RequestError) -> bytes:
    """Return an error as the JSON of OpenAI's form."""
    status = status_of(error)
    code = "model_not_found" if isinstance(error, ModelNotFoundError) else CODES.get(status, error.code.name.lower())
    return _encoded(status, error.message, error.field or None, code)


def status_of(error: RequestError) -> HTTPStatus:
    """Return the HTTP status; a request over its limit of bytes is 413, which no client sends again."""
    if isinstance(error, RefusedError) and error.reason == "size":
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return error.http_status


def internal(error: Exception) -> RequestError:
    """Return what a fault of ours is to clients."""
    return RequestError(grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}: {error}")


@contextmanager
def named_as(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors in the block name fields as the client wrote them: `names` has the gRPC API's names as keys."""
    try:
        yield
    except RequestError as error:
        error.message, error.field = _renamed(error, names)
        raise


def _renamed(error: RequestError, names: Mapping[str, str]) -> tuple[str, str]:
    field = error.field
    known = [name for name in names if field == name or field.startswith((f"{name}.", f"{name}["))]
    if not known:
        return error.message, field
    longest = max(known, key=len)
    written = (names[longest] + field[len(longest) :]).lstrip(".")
    return written + error.message[len(field) :], written


def _http_error(request: web.Request, error: web.HTTPException) -> web.Response:
    status, headers = HTTPStatus(error.status), {}
    if hdrs.ALLOW in error.headers:
        headers[str(hdrs.ALLOW)] = error.headers[hdrs.ALLOW]
    body = _encoded(status, _problem(request, error), None, error.reason.lower().replace(" ", "_"))
    return _response(status, body, headers)


def _problem(request: web.Request, error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPNotFound):
        return f"there is nothing at {request.path!r}; /openapi.json lists what there is"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.method} is not taken at {request.path!r}, only {', '.join(sorted(error.allowed_methods))}"
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return f"the request is over front.max_request_bytes or a limit of its caller: {error.text}"
    return error.text or error.reason


def _encoded(status: HTTPStatus, message: str, param: str | None, code: str) -> bytes:
    kind = TYPES.get(status, "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error")
    return msgspec.json.encode(ErrorReply(ErrorBody(message, kind, param, code)))


def _response(status: HTTPStatus, body: bytes, headers: Mapping[str, str]) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
