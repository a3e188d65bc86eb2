"""The stream of one answer: from a router's outputs to the client's responses, up to the last one."""

import asyncio
from collections.abc import Callable

from router_service.front.api.answers.response_builder import ResponseBuilder
from router_service.front.api.calls import ResponseWriter
from router_service.front.errors import RequestError
from router_service.front.routing.failover_stream import FailoverStream
from router_service.front.telemetry.request_record import RequestRecord
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Submit


class AnswerStream:
    """One answer, whose steps `record` notes. `stream` is opened by `pump`."""

    def __init__(self, submit: Submit, record: RequestRecord, builder: ResponseBuilder, stream: FailoverStream) -> None:
        self.record = record
        self.finish_reason = pb.FINISH_REASON_UNSPECIFIED
        self._submit = submit
        self._builder = builder
        self._stream = stream

    @property
    def ended(self) -> bool:
        """Whether its last response was written."""
        return self.finish_reason != pb.FINISH_REASON_UNSPECIFIED

    async def pump(self, writer: ResponseWriter, begun: Callable[[], None] = lambda: None) -> pb.GenerateResponse:
        """Write all responses but the last one, and return that; `begun` is called with the first token.

        Raises:
            RequestError: the stream has failed, or the client reads too slowly.
        """
        if (over := self._over()) is not None:
            return over
        try:
            while True:
                arrivals = await self._stream.receive()
                self.record.arrived(arrivals)
                if self.record.received.tokens:
                    begun()
                for response in self._builder.extend(arrivals):
                    if self._builder.finished or self._builder.error is not None:
                        return response
                    await self._write(writer, response)
        finally:
            self._stream.close()

    async def end(self, writer: ResponseWriter, last: pb.GenerateResponse) -> None:
        """Write the last response, and note the end in the record.

        Raises:
            RequestError: the router has failed the answer. Tokens that came with the failure are delivered before it.
        """
        error: RequestError | None = self._builder.error
        if error is None or last.token_ids:
            await writer.write(last)
        if error is not None:
            raise error
        self.finish_reason = last.finish_reason
        self.record.finished(last.finish_reason)

    def cut(self) -> pb.GenerateResponse:
        """Return the last response of an answer that the server cancels."""
        return self._builder.cut()

    def _over(self) -> pb.GenerateResponse | None:
        """Return the last response where an earlier call has delivered all tokens, and only the end was lost."""
        generated, sampling = self._submit.generated, self._submit.sampling
        if self._builder.stopped or (generated and generated[-1] in sampling.stop_token_ids):
            return self._builder.cut(pb.STOP)
        return self._builder.cut(pb.LENGTH) if len(generated) == sampling.max_tokens else None

    @staticmethod
    async def _write(writer: ResponseWriter, response: pb.GenerateResponse) -> None:
        await writer.write(response)
        if response.routing or response.prompt_logprobs:
            # Not every writer waits for its client: between two large responses other streams go on.
            await asyncio.sleep(0)
