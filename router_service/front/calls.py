"""What all handlers share: an error becomes the status of the call."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from experts.log import fields, stack_of
from router_service.front.errors import RequestError

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


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
