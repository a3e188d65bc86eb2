"""Runs requests by the path that gRPC's take, and writes what they answer: as events, or gathered."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

from experts.host.log import fields, stack_of
from router_service.front.api.calls import ResponseWriter
from router_service.front.api.inference_service import InferenceService
from router_service.front.auth.authenticator import Authenticator
from router_service.front.errors import RequestError, unavailable
from router_service.front.http.auth import more_streams
from router_service.front.openai.calling import Call
from router_service.front.openai.errors import internal, named_as
from router_service.front.openai.events import OpenEvents, error_event
from router_service.protocol import inference_pb2 as pb

logger = logging.getLogger(__name__)

SHUT_DOWN = "the server has shut down before the answer was complete; send the request again"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request, and what its fields are called in the body that it was made of."""

    request: pb.GenerateRequest
    names: Mapping[str, str]


class Encoder(Protocol):
    """Makes events of responses."""

    def encode(self, prompt: int, response: pb.GenerateResponse, /) -> bytes:
        """Return the events of a response to prompt number `prompt`, b"" if it says nothing."""

    def end(self) -> bytes:
        """Return the last events of an answer that is complete."""


Fail = Callable[[RequestError], bytes]
Take = Callable[[int, pb.GenerateResponse], None]


class Runner:
    """Runs the generations of the OpenAI API."""

    def __init__(self, inference: InferenceService, authenticator: Authenticator, patience_s: float) -> None:
        """A client that reads nothing for `patience_s` loses its stream."""
        self._inference = inference
        self._authenticator = authenticator
        self._patience_s = patience_s

    async def stream(
        self, call: Call, wanted: Sequence[Wanted], encoder: Encoder, fail: Fail = error_event
    ) -> web.StreamResponse:
        """Stream the answers as events. A failure after the first event is an event, which `fail` makes; the last one.

        Raises:
            RequestError: it failed before the first event.
        """
        events = OpenEvents(call, self._patience_s)
        try:
            await self._run(call, wanted, lambda prompt: EventWriter(events, encoder, prompt))
            await events.write(encoder.end())
        except ConnectionError:
            raise
        except Exception as error:
            if not events.opened or events.lost:
                raise
            await events.write(fail(_stated(error)))
        return events.response

    async def collect(self, call: Call, wanted: Sequence[Wanted], take: Take) -> None:
        """Pass all responses to `take`, with the numbers of their prompts.

        Raises:
            RequestError: the request was refused, or failed.
        """
        await self._run(call, wanted, lambda prompt: TakingWriter(call.http, take, prompt))

    async def _run(self, call: Call, wanted: Sequence[Wanted], writer_of: Callable[[int], "CompleteWriter"]) -> None:
        if len(wanted) == 1:
            await self._one(call, wanted[0], writer_of(0), call.request_id)
            return
        with more_streams(self._authenticator, call.http, len(wanted) - 1):
            try:
                async with asyncio.TaskGroup() as group:
                    for prompt, one in enumerate(wanted):
                        request_id = f"{call.request_id}-{prompt}"
                        group.create_task(self._one(call, one, writer_of(prompt), request_id))
            except* Exception as failed:
                raise _first(failed) from None

    async def _one(self, call: Call, wanted: Wanted, writer: "CompleteWriter", request_id: str) -> None:
        with named_as(wanted.names):
            await self._inference.answer(wanted.request, writer, call.metadata, request_id)
        if writer.cut:
            raise unavailable(SHUT_DOWN)


class CompleteWriter(ResponseWriter):
    """A writer that notes whether the server has `cut` its answer."""

    def __init__(self, http: web.Request) -> None:
        self.cut = False
        self._http = http

    def time_remaining(self) -> float | None:
        """See `ResponseWriter`; HTTP has no deadlines: clients leave."""
        return None

    def done(self) -> bool:
        """See `ResponseWriter`."""
        transport = self._http.transport
        return transport is None or transport.is_closing()

    async def accepted(self, request_id: str, /) -> None:
        """See `ResponseWriter`; nothing is sent yet, so that a refusal of the router has its status."""

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """See `ResponseWriter`."""
        self.cut = self.cut or response.finish_reason == pb.CANCELLED


class EventWriter(CompleteWriter):
    """Writes the responses of one prompt as events, each in one write."""

    def __init__(self, events: OpenEvents, encoder: Encoder, prompt: int) -> None:
        super().__init__(events.http)
        self._events = events
        self._encoder = encoder
        self._prompt = prompt

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """See `ResponseWriter`."""
        await super().write(response)
        if data := self._encoder.encode(self._prompt, response):
            await self._events.write(data)


class TakingWriter(CompleteWriter):
    """Passes the responses of one prompt on."""

    def __init__(self, http: web.Request, take: Take, prompt: int) -> None:
        super().__init__(http)
        self._take = take
        self._prompt = prompt

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """See `ResponseWriter`."""
        await super().write(response)
        self._take(self._prompt, response)


def _stated(error: Exception) -> RequestError:
    """What clients are told; a fault of ours is logged."""
    if isinstance(error, RequestError):
        return error
    logger.error("a stream of the OpenAI API failed", extra=fields(stack=stack_of(error)))
    return internal(error)


def _first(failed: BaseExceptionGroup[Exception]) -> Exception:
    """The failure that ended the others."""
    first = failed.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
