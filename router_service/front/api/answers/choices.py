"""Several answers to one request: one prefill, then all of them at once, through one writer."""

import asyncio
from collections.abc import Sequence

from router_service.front.api.answers.answer_stream import AnswerStream
from router_service.front.api.calls import ResponseWriter
from router_service.front.errors import RequestError
from router_service.protocol import inference_pb2 as pb


class OneAtATime:
    """A writer for several streams: each waits until the responses before it are written."""

    def __init__(self, writer: ResponseWriter) -> None:
        self._writer = writer
        self._lock = asyncio.Lock()
        self.time_remaining = writer.time_remaining
        self.done = writer.done
        self.accepted = writer.accepted

    async def write(self, response: pb.GenerateResponse, /) -> None:
        """See `ResponseWriter`."""
        async with self._lock:
            await self._writer.write(response)


async def answer_all(answers: Sequence[AnswerStream], writer: ResponseWriter) -> None:
    """Write all answers to the end. The others begin once the first has a token: its router has the prompt cached then.

    When it is cancelled, a last response that is on its way is still written: see `AnswerStream.ended`.

    Raises:
        RequestError: one has failed; the others are given up.
    """
    shared, begun = OneAtATime(writer), asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_lead(answers[0], shared, begun))
            for answer in answers[1:]:
                tasks.create_task(_follow(answer, shared, begun))
    except BaseExceptionGroup as failures:
        # Several may fail at once, as where a router is lost: one error says enough.
        raise next(
            (one for one in failures.exceptions if isinstance(one, RequestError)), failures.exceptions[0]
        ) from None


async def _lead(answer: AnswerStream, writer: ResponseWriter, begun: asyncio.Event) -> None:
    await _end(answer, writer, await answer.pump(writer, begun.set))
    begun.set()


async def _follow(answer: AnswerStream, writer: ResponseWriter, begun: asyncio.Event) -> None:
    await begun.wait()
    await _end(answer, writer, await answer.pump(writer))


async def _end(answer: AnswerStream, writer: ResponseWriter, last: pb.GenerateResponse) -> None:
    """End an answer; interrupted, its last response might have been written or not, and nobody could say."""
    ending = asyncio.ensure_future(answer.end(writer, last))
    try:
        await asyncio.shield(ending)
    except asyncio.CancelledError:
        await ending
        raise
