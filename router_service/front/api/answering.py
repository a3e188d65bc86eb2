"""Answers one request: encodes the prompt, resolves the sampling, streams from a router, writes responses."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from router_service.front.api.calls import ResponseWriter
from router_service.front.api.prompt import encode_input
from router_service.front.api.response_builder import ResponseBuilder
from router_service.front.api.sampling import checked_continuation, resolve_sampling, special_stop_ids, stop_strings
from router_service.front.api.scheduling import check_scheduling, current_caller, fallback_of, salt_of
from router_service.front.config import FrontConfig
from router_service.front.errors import RequestError, invalid, unavailable
from router_service.front.routing.failover_stream import FailoverStream
from router_service.front.routing.length_limits import LengthLimits
from router_service.front.routing.router_pool import RouterPool
from router_service.front.telemetry.request_record import RequestRecord
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Submit
from router_service.protocol.request_id import MAX_REQUEST_ID_CHARACTERS
from router_service.text.text_model import TextModel

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
        text: TextModel,
        router_pool: RouterPool,
        config: FrontConfig,
    ) -> None:
        self._request = request
        self._writer = writer
        self._record = record
        self._text = text
        self._router_pool = router_pool
        self._config = config
        self._answer: ResponseBuilder | None = None

    async def run(self, limits: LengthLimits, scope: asyncio.Timeout) -> None:
        """Write the answer, with exactly one final message; when `scope` expires, it ends there as cancelled.

        The final message is written outside `scope`: interrupted, it might have been sent or not, and nobody could say.

        Raises:
            RequestError: the request was refused, or failed.
        """
        try:
            async with scope:
                submit = await self._submit(limits)
                self._record.submitted(submit)
                await self._writer.accepted(submit.request_id)
                stops = stop_strings(self._request.sampling, self._text.defaults)
                self._answer = ResponseBuilder(self._record, self._text.tokenizer, stops, submit.sampling.min_tokens)
                self._answer.go_on(self._request.continuation)
                last = self._over(submit, self._answer) or await self._pump(submit, self._answer)
        except TimeoutError:
            if not scope.expired():
                raise
            if self._answer is None:
                raise unavailable("the server is draining") from None
            last = self._answer.cut()
        await self._end(last, self._answer.error)

    async def _submit(self, limits: LengthLimits) -> Submit:
        request, record = self._request, self._record
        _check(request, record)
        caller = current_caller()
        prompt = await encode_input(request, self._text, limits)
        defaults, tokenizer = self._text.defaults, self._text.tokenizer
        stops = special_stop_ids(stop_strings(request.sampling, defaults), tokenizer)
        sampling = resolve_sampling(request.sampling, defaults, limits, len(prompt), stops, tokenizer)
        return Submit(
            stream=0,
            request_id=record.request_id,
            prompt=prompt,
            sampling=sampling,
            generated=checked_continuation(request.continuation, sampling.max_tokens, limits.vocabulary, tokenizer),
            return_routing=request.return_routing,
            traced=bool(record.trace_id),
            return_scores=request.return_scores,
            priority=request.priority,
            caller=caller,
            fallback=fallback_of(request),
            cache_salt=salt_of(caller if self._config.cache_by_caller else "", request.cache_salt),
        )

    @staticmethod
    def _over(submit: Submit, answer: ResponseBuilder) -> pb.GenerateResponse | None:
        """Return the last response where an earlier call has delivered all tokens, and only the end was lost."""
        generated, sampling = submit.generated, submit.sampling
        if answer.stopped or (generated and generated[-1] in sampling.stop_token_ids):
            return answer.cut(pb.STOP)
        return answer.cut(pb.LENGTH) if len(generated) == sampling.max_tokens else None

    async def _pump(self, submit: Submit, answer: ResponseBuilder) -> pb.GenerateResponse:
        """Write all responses but the last one, and return that."""
        stream = self._stream(submit)
        try:
            while True:
                arrivals = await stream.receive()
                self._record.arrived(arrivals)
                for response in answer.extend(arrivals):
                    if answer.finished or answer.error is not None:
                        return response
                    await self._write(response)
        finally:
            stream.close()

    async def _write(self, response: pb.GenerateResponse) -> None:
        await self._writer.write(response)
        if response.routing or response.prompt_logprobs:
            # Not every writer waits for its client: between two large responses other streams go on.
            await asyncio.sleep(0)

    async def _end(self, last: pb.GenerateResponse, error: RequestError | None) -> None:
        # Tokens that came with the failure are delivered before it.
        if error is None or last.token_ids:
            await self._writer.write(last)
        if error is not None:
            raise error
        self._record.finished(last.finish_reason)

    def _stream(self, submit: Submit) -> FailoverStream:
        left = self._writer.time_remaining()
        deadline = None if left is None else asyncio.get_running_loop().time() + left
        config = self._config
        return FailoverStream(
            self._router_pool,
            submit,
            deadline=deadline,
            router_wait_seconds=config.router_wait_seconds,
            max_resubmits=config.max_resubmits,
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
        record.failed("CANCELLED" if _time_left(writer) else "DEADLINE_EXCEEDED")
        raise
    except Exception:
        record.failed("CANCELLED" if writer.done() else "INTERNAL")
        raise


def _check(request: pb.GenerateRequest, record: RequestRecord) -> None:
    """Check the fields that are neither input nor sampling: the id's length, priority, salt, scores with routing only.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if len(record.request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise invalid("request_id", f"at most {MAX_REQUEST_ID_CHARACTERS} characters, has {len(record.request_id)}")
    if request.return_scores and not request.return_routing:
        raise invalid("return_scores", "comes with the routing: set return_routing too, or leave it out")
    check_scheduling(request)


def _time_left(writer: ResponseWriter) -> bool:
    """Whether the call was cancelled before its deadline, which started at the caller and so a little earlier."""
    left = writer.time_remaining()
    return left is None or left > ON_THE_WAY_S
