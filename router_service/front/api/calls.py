"""What all handlers share: an error becomes the status of the call."""

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
import grpc.aio

from experts.host.log import current_request, fields, stack_of
from router_service.front.errors import RequestError
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.request_id import new_request_id, request_id_metadata, shown_request_id

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class ResponseWriter(Protocol):
    """Who asked for a stream: a gRPC call's context, or the page's own requests."""

    def time_remaining(self) -> float | None:
        """Seconds until the answer is worth nothing, None for ever."""

    def done(self) -> bool:
        """Whether it has gone."""

    async def accepted(self, request_id: str, /) -> None:
        """Hear that its request has nothing wrong and is about to go to a router."""

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """Take a response; wait while it has too many."""


class GrpcResponseWriter:
    """The caller of a gRPC call."""

    def __init__(self, context: Context) -> None:
        self._context = context
        # Called for every message: nothing of ours stands between.
        self.time_remaining = context.time_remaining
        self.done = context.done
        self.write = context.write

    async def accepted(self, request_id: str, /) -> None:
        """Tell the client its id now: of a call whose deadline passes it never sees the end.

        Not earlier: whom headers have reached, gRPC's own retries leave alone, and a refused request may be retried.
        """
        await self._context.send_initial_metadata(request_id_metadata(request_id))


@asynccontextmanager
async def answering(context: Context, given: str = "") -> AsyncIterator[str]:
    """Name the call, and end it with the status of a RequestError; what we did not foresee is INTERNAL and logged.

    The block gets the request's id, see `new_request_id`; the client gets it with the call's end, however it ends.
    """
    request_id = name_call(context, given)
    try:
        yield request_id
    except RequestError as error:
        await context.abort(error.code, error.message)
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        if context.done():  # the client has gone; a write to it fails in one way or another
            return
        logger.error("a call failed", extra=fields(stack=stack_of(error)))
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}: {error}")


def name_call(context: Context, given: str = "") -> str:
    """Return the call's id. From now on lines of the running task carry it, and the end of the call will."""
    request_id = new_request_id(given, metadata_of(context.invocation_metadata()))
    current_request.set(shown_request_id(request_id))
    context.set_trailing_metadata(request_id_metadata(request_id))
    return request_id


def metadata_of(items: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """A call's metadata as text; binary entries are nobody's here."""
    return {key: value for key, value in items or () if isinstance(value, str)}
