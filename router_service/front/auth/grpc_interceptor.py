"""Authentication and limits for every gRPC service of the Front."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio

from router_service.front.api.calls import Context, name_stranger
from router_service.front.api.scheduling import set_caller
from router_service.front.auth.authenticator import OPEN_INFERENCE, Authenticator, needed_role
from router_service.front.auth.refusals import RefusedError
from router_service.front.auth.tokens import Caller, Role
from router_service.protocol.request_id import request_id_metadata

if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler  # no generic when it runs


# Calls without a stream that take as long as a streamed answer.
ANSWERING = (f"{OPEN_INFERENCE}ModelInfer",)
# gRPC's options are signed numbers of 32 bits.
MAX_INT32 = (1 << 31) - 1


def grpc_limit(max_request_bytes: int) -> int:
    """Return the largest message in bytes that gRPC reads; it ends calls with larger ones itself, without our message.

    Twice our own limit, so that most requests over that get an error that names it. Not more, because gRPC holds
    messages in memory.
    """
    return min(2 * max_request_bytes, MAX_INT32)


class AuthInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # no generic when it runs
    """Authenticates a call before its message is read, and counts it against its caller's limits."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the method's handler, wrapped in its caller's limits, or one that refuses the call."""
        method = handler_call_details.method
        if (needed := needed_role(method)) is None:
            return await continuation(handler_call_details)
        metadata = handler_call_details.invocation_metadata or ()
        given = [str(value) for name, value in metadata if name == "authorization"]
        try:
            caller = self._authenticator.admit(given, needed)
        except RefusedError as error:
            return _refusing(self._authenticator, error, method)
        handler: Handler | None = await continuation(handler_call_details)
        if handler is None:
            return handler  # type: ignore[return-value]  # an unknown method, which the stubs do not allow for
        if handler.request_streaming:
            stream = LimitedStream(self._authenticator, caller, given, method, handler)
            # Reflection, the only other one, bounds itself.
            return stream.limited() if needed is Role.INFERENCE else handler
        call = Limited(self._authenticator, caller, method, handler)
        if (task := asyncio.current_task()) is not None:
            # gRPC runs the whole call in this task.
            task.add_done_callback(call.ended)
        return _limited(handler, call)


class Limited:
    """One call: checks its request's size, and counts it among its caller's streams if the response is streamed."""

    def __init__(self, authenticator: Authenticator, caller: Caller, method: str, handler: Handler) -> None:
        self._authenticator = authenticator
        self._caller = caller
        self._method = method
        self._handler = handler
        self._size: int | None = None

    def deserialize(self, data: bytes) -> Any:
        """Parse the request; one that is too large is not parsed, and `admitted` refuses it."""
        self._size = size = len(data)
        try:
            self._authenticator.check_size(self._caller, size)
        except RefusedError:
            return None
        return self._handler.request_deserializer(data) if self._handler.request_deserializer else data

    @asynccontextmanager
    async def admitted(self, context: Context) -> AsyncIterator[None]:
        """Run the call within its limits and in its caller's name, or end it as refused."""
        set_caller(self._caller.name, context.peer())
        with ExitStack() as place:
            try:
                self._authenticator.check_size(self._caller, self._size or 0)
                if self._handler.response_streaming or self._method in ANSWERING:
                    place.enter_context(self._authenticator.stream(self._caller))
            except RefusedError as error:
                await _refuse(self._authenticator, error, self._method, context)
            yield

    def ended(self, _: object) -> None:
        """Note a call whose request never arrived: gRPC ends calls with too large a message without telling us."""
        if self._size is None:
            problem = "no request came: it was cancelled at once, or is larger than twice its limit"
            error = RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, problem, "unread", self._caller.name)
            self._authenticator.refusals.note(error, "a client", self._method)


class LimitedStream:
    """One call with a stream of requests: one stream of its caller. Each request after the first is admitted anew."""

    def __init__(
        self, authenticator: Authenticator, caller: Caller, given: Sequence[str], method: str, handler: Handler
    ) -> None:
        """`given` are the call's `authorization` headers."""
        self._authenticator = authenticator
        self._caller = caller
        self._given = given
        self._method = method
        self._handler = handler

    def limited(self) -> Handler:
        """Return the method's handler within its caller's limits."""
        return grpc.stream_stream_rpc_method_handler(self._answer, self._parsed, self._handler.response_serializer)

    async def _answer(self, requests: AsyncIterator[Any], context: Context) -> Any:
        set_caller(self._caller.name, context.peer())
        behaviour: Any = self._handler.stream_stream
        with ExitStack() as place:
            try:
                place.enter_context(self._authenticator.stream(self._caller))
            except RefusedError as error:
                await _refuse(self._authenticator, error, self._method, context)
            return await behaviour(self._admitted(requests, context), context)

    def _parsed(self, data: bytes) -> Any:
        """Parse a request, or return why it is refused: gRPC answers an exception here by itself."""
        try:
            self._authenticator.check_size(self._caller, len(data))
        except RefusedError as error:
            return error
        return self._handler.request_deserializer(data) if self._handler.request_deserializer else data

    async def _admitted(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        first = True
        async for request in requests:
            try:
                if isinstance(request, RefusedError):
                    raise request
                if not first:
                    # Its token may have been removed since, and requests per minute are counted.
                    self._authenticator.admit(self._given, Role.INFERENCE)
            except RefusedError as error:
                await _refuse(self._authenticator, error, self._method, context)
            first = False
            yield request


def _limited(handler: Handler, call: Limited) -> Handler:
    behaviour: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary

    async def answer(request: Any, context: Context) -> Any:
        async with call.admitted(context):
            return await behaviour(request, context)

    async def generate(request: Any, context: Context) -> Any:
        async with call.admitted(context):
            async for response in behaviour(request, context):
                yield response

    make = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    chosen: Any = generate if inspect.isasyncgenfunction(behaviour) else answer
    return make(chosen, call.deserialize, handler.response_serializer)


def _refusing(authenticator: Authenticator, error: RefusedError, method: str) -> Handler:
    async def refuse(_: Any, context: Context) -> None:
        await _refuse(authenticator, error, method, context)

    # Only a stream-stream handler is called before a message has been read; clients see no difference.
    return grpc.stream_stream_rpc_method_handler(refuse)


async def _refuse(authenticator: Authenticator, error: RefusedError, method: str, context: Context) -> None:
    request_id = name_stranger(context)
    authenticator.refusals.note(error, context.peer(), method)
    await context.abort(error.code, error.message, (*error.headers, *request_id_metadata(request_id)))
