"""Shared by all gRPC handlers: request ids, errors as statuses, and clients that do not read."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
import grpc.aio

from experts.host.log import current_request, fields, stack_of
from router_service.front.errors import RequestError, not_read
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.request_id import new_request_id, request_id_metadata, shown_request_id

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

# How long a call's status may wait for a client that does not read what comes before it.
FAREWELL_SECONDS = 5.0


class ResponseWriter(Protocol):
    """Receives a stream of responses: a gRPC call's context, or a handler of the live page."""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""

    def done(self) -> bool:
        """Whether the client has disconnected."""

    async def accepted(self, request_id: str, /) -> None:
        """Called once the request is valid and about to be sent to a router."""

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """Send a response; waits while the client does not read.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, the client has not read for too long.
        """


class GrpcResponseWriter:
    """Writes to the client of a gRPC call, which may not leave a response unread for longer than `patience_s`."""

    def __init__(self, context: Context, patience_s: float) -> None:
        self._context = context
        self._patience_s = patience_s
        self._gone = False
        self.time_remaining = context.time_remaining

    def done(self) -> bool:
        """See `ResponseWriter`."""
        return self._gone or bool(self._context.done())

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """See `ResponseWriter`."""
        try:
            await write_in_time(self._context, response, self._patience_s)
        except grpc.aio.InternalError:  # which a call raises before it says that it is done
            self._gone = True
            raise

    async def accepted(self, request_id: str, /) -> None:
        """Send the request's id to the client now: if its deadline passes, it never sees the trailing metadata.

        Not earlier: initial metadata ends gRPC's retries, and a refused request may be retried.
        """
        await self._context.send_initial_metadata(request_id_metadata(request_id))


@asynccontextmanager
async def answering(context: Context, given: str = "") -> AsyncIterator[str]:
    """Give the call an id, and end it with a RequestError's status; other exceptions become INTERNAL and are logged.

    Yields the request's id, see `new_request_id`. The client gets it in the trailing metadata, however the call ends.
    """
    request_id = name_call(context, given)
    try:
        yield request_id
    except RequestError as error:
        await end_call(context, error)
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        # The client has gone; a write to it fails in one way or another.
        if context.done() or isinstance(error, grpc.aio.InternalError):
            return
        logger.error("a call failed", extra=fields(stack=stack_of(error)))
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}: {error}")


@asynccontextmanager
async def ending_strangers(context: Context) -> AsyncIterator[None]:
    """As `answering`, for calls that need no token: nothing of what the caller sent is sent back."""
    try:
        yield
    except RequestError as error:
        name_stranger(context)
        await end_call(context, error)


async def write_in_time(context: Context, message: Any, seconds: float) -> None:
    """Send a message; waits while the client does not read.

    Raises:
        RequestError: RESOURCE_EXHAUSTED, it has not read for `seconds`.
    """
    try:
        async with asyncio.timeout(seconds):
            await context.write(message)
    except TimeoutError as error:
        raise not_read(seconds) from error


async def end_call(context: Context, error: RequestError) -> None:
    """End a call with the error's status. One whose client does not read it in time is reset."""
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            await context.abort(error.code, error.message)
    except TimeoutError:
        # A handler that was cancelled leaves its call to gRPC, which resets the stream and frees what waits in it.
        raise asyncio.CancelledError from None


def name_call(context: Context, given: str = "") -> str:
    """Return the call's id. From now on log lines of the running task carry it, and the trailing metadata will."""
    return _name(context, new_request_id(given, metadata_of(context.invocation_metadata())))


def name_stranger(context: Context) -> str:
    """Give an id of our own to a call that is not let in: nothing that its caller sent is sent back or logged."""
    return _name(context, new_request_id("", {}))


def _name(context: Context, request_id: str) -> str:
    current_request.set(shown_request_id(request_id))
    context.set_trailing_metadata(request_id_metadata(request_id))
    return request_id


def metadata_of(items: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Return a call's text metadata; binary entries are not used here."""
    return {key: value for key, value in items or () if isinstance(value, str)}
