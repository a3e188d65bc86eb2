"""Refuses messages that cannot be parsed, for every method of every service, as INVALID_ARGUMENT.

gRPC itself would end the call as UNKNOWN and log a traceback, which anyone can cause.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from router_service.front.api.calls import Context, name_stranger
from router_service.front.auth.grpc_interceptor import Handler
from router_service.front.auth.refusals import Refusals, RefusedError


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Takes the place of a message of `size` bytes that could not be parsed."""

    size: int


class MessageInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # no generic when it runs
    """Belongs behind the one that authenticates: what a stranger sends is not even parsed."""

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the method's handler, which is called with messages that could be parsed only."""
        handler: Handler | None = await continuation(handler_call_details)
        if handler is None:
            return handler  # type: ignore[return-value]  # an unknown method, which the stubs do not allow for
        reader = MessageReader(self._refusals, handler_call_details.method, handler.request_deserializer)
        return reader.guarded(handler)


class MessageReader:
    """Parses the messages of one call."""

    def __init__(self, refusals: Refusals, method: str, deserializer: Callable[[bytes], Any] | None) -> None:
        self._refusals = refusals
        self._method = method
        self._deserializer = deserializer

    def parse(self, data: bytes) -> Any:
        """Return the message, or what says that there is none: gRPC answers an exception here by itself."""
        try:
            return data if self._deserializer is None else self._deserializer(data)
        except DecodeError:
            return Unreadable(len(data))

    def guarded(self, handler: Handler) -> Handler:
        """Return a handler that parses by `parse`, and refuses what is `Unreadable` before `handler` sees it."""
        kind = ("stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary")
        behaviour: Any = getattr(handler, "_".join(kind))
        check = self._each if handler.request_streaming else self._one

        async def answer(request: Any, context: Context) -> Any:
            return await behaviour(await check(request, context), context)

        async def generate(request: Any, context: Context) -> Any:
            async for response in behaviour(await check(request, context), context):
                yield response

        make = getattr(grpc, f"{'_'.join(kind)}_rpc_method_handler")
        chosen = generate if inspect.isasyncgenfunction(behaviour) else answer
        guarded: Handler = make(chosen, self.parse, handler.response_serializer)
        return guarded

    async def _one(self, request: Any, context: Context) -> Any:
        if isinstance(request, Unreadable):
            await self._refuse(request, context)
        return request

    async def _each(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async def checked() -> AsyncIterator[Any]:
            async for request in requests:
                yield await self._one(request, context)

        return checked()

    async def _refuse(self, message: Unreadable, context: Context) -> None:
        problem = f"the message of {message.size} bytes cannot be parsed: send what the .proto file of the method says"
        error = RefusedError(grpc.StatusCode.INVALID_ARGUMENT, problem, "unreadable")
        name_stranger(context)
        self._refusals.note(error, context.peer(), self._method)
        await context.abort(error.code, error.message)
