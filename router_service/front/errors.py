"""Errors of requests, as gRPC statuses."""

from http import HTTPStatus

import grpc

# As google.rpc's `code.proto` maps them; other codes are internal errors.
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}


class RequestError(Exception):
    """Ends a call with `code` and `message`, which begins with the name of the `field` that is wrong, if one is."""

    def __init__(self, code: grpc.StatusCode, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field

    @property
    def http_status(self) -> HTTPStatus:
        """The HTTP status of the code."""
        return HTTP_STATUS.get(self.code, HTTPStatus.INTERNAL_SERVER_ERROR)


def invalid(field: str, problem: str) -> RequestError:
    """Return an INVALID_ARGUMENT that names the field and its bounds."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {problem}", field)


def unavailable(message: str) -> RequestError:
    """Return an UNAVAILABLE."""
    return RequestError(grpc.StatusCode.UNAVAILABLE, message)


def exhausted(message: str) -> RequestError:
    """Return a RESOURCE_EXHAUSTED."""
    return RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, message)


def not_read(seconds: float) -> RequestError:
    """Return a RESOURCE_EXHAUSTED for a client that does not read its stream."""
    text = f"the client has read nothing for {seconds:g} s, see front.slow_reader_seconds; its stream has ended"
    return exhausted(text)


def deadline_exceeded() -> RequestError:
    """Return a DEADLINE_EXCEEDED."""
    return RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, "the call's deadline has passed")


def from_router(code: str, message: str) -> RequestError:
    """Return a router's failure; a code that gRPC does not have becomes INTERNAL."""
    status = grpc.StatusCode.__members__.get(code, grpc.StatusCode.INTERNAL)
    # OK would end the stream as if it had completed.
    return RequestError(grpc.StatusCode.INTERNAL if status is grpc.StatusCode.OK else status, message)
