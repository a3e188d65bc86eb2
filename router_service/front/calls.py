"""What all handlers share: an error becomes the status of the call."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
import grpc.aio

from experts.log import fields, stack_of
from router_service.front.errors import RequestError
from router_service.protocol import inference_pb2 as pb

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class Caller(Protocol):
    """Who asked for a stream: a gRPC call's context, or the page's own requests."""

    def time_remaining(self) -> float | None:
        """Seconds until the answer is worth nothing, None for ever."""

    def done(self) -> bool:
        """Whether it has gone."""

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """Take a response; wait while it has too many."""


@asynccontextmanager
async def answering(context: Context) -> AsyncIterator[None]:
    """End the call with the status of a RequestError; what we did not foresee is INTERNAL and logged."""
    try:
        yield
    except RequestError as error:
        await context.abort(error.code, error.message)
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        if context.done():  # the client has gone; a write to it fails in one way or another
            return
        logger.error("a call failed", extra=fields(stack=stack_of(error)))
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}: {error}")
