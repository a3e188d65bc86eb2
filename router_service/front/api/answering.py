"""Answers one request: prepares it, streams its answers from routers, writes responses."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from router_service.front.api.answers.answer_stream import AnswerStream
from router_service.front.api.answers.answer_text import AnswerText
from router_service.front.api.answers.choices import answer_all
from router_service.front.api.answers.response_builder import ResponseBuilder
from router_service.front.api.calls import ResponseWriter
from router_service.front.api.preparation import Preparation, Prepared
from router_service.front.config import FrontConfig
from router_service.front.errors import RequestError, unavailable
from router_service.front.routing.failover_stream import FailoverStream
from router_service.front.routing.length_limits import LengthLimits
from router_service.front.routing.router_pool import RouterPool
from router_service.front.telemetry.request_record import RequestRecord
from router_service.protocol import inference_pb2 as pb
from router_service.text.tokenizer import Tokenizer

# A caller's deadline started earlier than ours, by the time that its call was in transit.
ON_THE_WAY_S = 0.1


class Answering:
    """Answers one request, and notes its steps in `record`."""

    def __init__(
        self,
        *,
        request: pb.GenerateRequest,
        writer: ResponseWriter,
        record: RequestRecord,
        preparation: Preparation,
        tokenizer: Tokenizer,
        router_pool: RouterPool,
        config: FrontConfig,
    ) -> None:
        self._request = request
        self._writer = writer
        self._record = record
        self._preparation = preparation
        self._tokenizer = tokenizer
        self._router_pool = router_pool
        self._config = config
        self._answers: list[AnswerStream] = []

    async def run(self, limits: LengthLimits, scope: asyncio.Timeout) -> None:
        """Write each answer, with exactly one final message; when `scope` expires, they end there as cancelled.

        Final messages are not interrupted by `scope`: one might have been sent or not, and nobody could say.

        Raises:
            RequestError: the request was refused, or failed.
        """
        last: pb.GenerateResponse | None = None
        try:
            async with scope:
                await self._open(limits)
                last = await self._stream()
        except TimeoutError:
            if not scope.expired():
                raise
            if not self._answers:
                raise unavailable("the server is draining") from None
        for answer in self._answers:
            if not answer.ended:
                await answer.end(self._writer, last or answer.cut())
        if len(self._answers) > 1:
            self._record.finished(*(answer.finish_reason for answer in self._answers))

    async def _open(self, limits: LengthLimits) -> None:
        prepared = await self._preparation.prepare(self._request, self._record, limits)
        self._record.submitted(prepared.submits[0])
        await self._writer.accepted(self._record.request_id)
        records = self._record.answers(len(prepared.submits))
        lead: FailoverStream | None = None
        for index, record in enumerate(records):
            stream = self._failover(prepared, index, lead)
            lead = lead or stream
            answer = AnswerStream(prepared.submits[index], record, self._builder(prepared, index, record), stream)
            self._answers.append(answer)

    async def _stream(self) -> pb.GenerateResponse | None:
        """Return the last response of a single answer, which is still to be written."""
        if len(self._answers) == 1:
            return await self._answers[0].pump(self._writer)
        await answer_all(self._answers, self._writer)
        return None

    def _builder(self, prepared: Prepared, index: int, record: RequestRecord) -> ResponseBuilder:
        builder = ResponseBuilder(
            record,
            self._tokenizer,
            AnswerText(self._tokenizer, prepared.rules, prepared.parsers[index]),
            min_tokens=prepared.submits[index].sampling.min_tokens,
            index=index,
            echo=None if index else prepared.echo,
        )
        builder.go_on(self._request.continuation)
        return builder

    def _failover(self, prepared: Prepared, index: int, lead: FailoverStream | None) -> FailoverStream:
        left = self._writer.time_remaining()
        config = self._config
        return FailoverStream(
            self._router_pool,
            prepared.submits[index],
            deadline=None if left is None else asyncio.get_running_loop().time() + left,
            router_wait_seconds=config.router_wait_seconds,
            max_resubmits=config.max_resubmits,
            sharers=len(prepared.submits),
            beside=lead,
        )


@contextmanager
def failures_noted(record: RequestRecord, writer: ResponseWriter) -> Iterator[None]:
    """Note in the record how the request failed, if it did."""
    try:
        yield
    except RequestError as error:
        record.failed(error.code.name, error.message)
        raise
    except asyncio.CancelledError:
        record.failed(_left(writer))
        raise
    except Exception:
        record.failed(_left(writer) if writer.done() else "INTERNAL")
        raise


def _left(writer: ResponseWriter) -> str:
    """The status of a client that does not wait any more; its deadline started there and so a little earlier."""
    left = writer.time_remaining()
    return "CANCELLED" if left is None or left > ON_THE_WAY_S else "DEADLINE_EXCEEDED"
