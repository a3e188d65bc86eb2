"""The `expertmesh.v1.Inference` service."""

import asyncio
import logging
from collections.abc import Mapping

from experts.host.log import fields
from router_service.front.api.calls import Context, GrpcResponseWriter, ResponseWriter, answering, metadata_of
from router_service.front.api.model_card import ModelCard
from router_service.front.api.prompt import encode_input, encode_request
from router_service.front.api.response_builder import ResponseBuilder
from router_service.front.api.sampling import check_token_ids, resolve_sampling
from router_service.front.config import FrontConfig
from router_service.front.errors import RequestError, exhausted, invalid, unavailable
from router_service.front.routing.failover_stream import FailoverStream
from router_service.front.routing.length_limits import LengthLimits
from router_service.front.routing.router_pool import RouterPool
from router_service.front.telemetry.metrics import FrontMetrics, RequestMeter
from router_service.front.telemetry.request_log import Entry, RequestLog
from router_service.front.text.text_model import TextModel
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceServicer
from router_service.protocol.messages import Submit
from router_service.protocol.request_id import MAX_REQUEST_ID_CHARACTERS

logger = logging.getLogger(__name__)

# A caller's deadline began by the way of its call before ours.
ON_THE_WAY_S = 0.1


class InferenceService(InferenceServicer):
    """Generate, Tokenize, Detokenize, GetModel."""

    def __init__(
        self,
        text: TextModel,
        card: ModelCard,
        links: RouterPool,
        metrics: FrontMetrics,
        config: FrontConfig,
        journal: RequestLog,
    ) -> None:
        self._text = text
        self._card = card
        self._links = links
        self._metrics = metrics
        self._config = config
        self._journal = journal
        self._draining = False
        self._active: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        """Stream an answer; the final message or the status comes exactly once."""
        async with answering(context, request.request_id) as request_id:
            metadata = metadata_of(context.invocation_metadata())
            await self.answer(request, GrpcResponseWriter(context), metadata, request_id)

    async def answer(
        self,
        request: pb.GenerateRequest,
        caller: ResponseWriter,
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> None:
        """Write the answer to `caller`, the final message exactly once; metadata and id came with a gRPC call.

        Raises:
            RequestError: it was refused, or ended without finishing.
        """
        started = asyncio.get_running_loop().time()
        entry = self._journal.begin(request, metadata or {}, request_id)
        try:
            await self._admit(request, caller, started, entry)
        except RequestError as error:
            self._failed(entry, error.code.name, error.message)
            raise
        except asyncio.CancelledError:
            self._failed(entry, "CANCELLED" if _time_left(caller) else "DEADLINE_EXCEEDED")
            raise
        except Exception:
            self._failed(entry, "CANCELLED" if caller.done() else "INTERNAL")
            raise

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Return the ids that Generate would use."""
        response = pb.TokenizeResponse()
        async with answering(context):
            response.ids.extend(await encode_request(request, self._text))
        return response

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        """Return the text of ids."""
        response = pb.DetokenizeResponse()
        async with answering(context):
            check_token_ids("ids", request.ids, self._card.vocabulary)
            skip = request.skip_special_tokens or not request.HasField("skip_special_tokens")
            response.text = self._text.tokenizer.decode(request.ids, skip)
        return response

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.ModelInfo:  # noqa: ARG002
        """Describe the model."""
        async with answering(context):
            return self.model()

    @property
    def active(self) -> int:
        """How many requests are being answered."""
        return len(self._active)

    def limits(self) -> LengthLimits:
        """How long a request may be now."""
        return self._links.limits(self._card.context, self._card.vocabulary)

    def model(self) -> pb.ModelInfo:
        """Describe the model, with what the linked routers allow now."""
        card, limits = self._card, self.limits()
        return pb.ModelInfo(
            name=card.name,
            family=card.family,
            context=limits.context,
            prompt_limit=min(limits.prompt, limits.context - 1),
            vocabulary=card.vocabulary,
            eos_token_ids=self._text.defaults.eos_token_ids,
            dtype=card.dtype,
            layers=card.layers,
            moe_layers=card.moe_layers,
            experts=card.experts,
            experts_per_token=card.experts_per_token,
            total_parameters=card.total_parameters,
            active_parameters=card.active_parameters,
            has_chat_template=self._text.chat is not None,
        )

    def refuse(self) -> None:
        """Refuse new requests from now on."""
        self._draining = True

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests and wait for those in flight; after `grace_s` they end as cancelled."""
        self.refuse()
        logger.info("drain begins", extra=fields(streams=len(self._active), grace_seconds=grace_s))
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
            logger.info("drain ends, all streams have ended")
        except TimeoutError:
            logger.warning("%d streams outlive the grace period of %g s", len(self._active), grace_s)
            for scope in self._active:
                scope.reschedule(0)

    def _failed(self, entry: Entry, code: str, message: str = "") -> None:
        self._metrics.failed(code)
        entry.failed(code, message)

    async def _admit(self, request: pb.GenerateRequest, caller: ResponseWriter, started: float, entry: Entry) -> None:
        if self._draining:
            raise unavailable("the server is draining")
        if len(self._active) >= self._config.max_concurrent_streams:
            raise exhausted(f"the server has {self._config.max_concurrent_streams} streams, its limit; try again later")
        scope = asyncio.timeout(None)
        answer: ResponseBuilder | None = None
        meter = RequestMeter(self._metrics, started)
        try:
            async with scope:
                self._track(scope)
                submit = await self._submit_of(request, entry)
                meter.prompt(len(submit.prompt))
                entry.submitted(submit)
                await caller.accepted(submit.request_id)
                answer = self._answer(submit, request, started, meter)
                await self._pump(submit, answer, caller, meter, entry)
        except TimeoutError:
            if not scope.expired():
                raise
            if answer is None or answer.finished:
                raise unavailable("the server is draining") from None
            await self._write(answer.cut(), caller, meter, entry)
        finally:
            self._untrack(scope)

    async def _pump(
        self, submit: Submit, answer: ResponseBuilder, caller: ResponseWriter, meter: RequestMeter, entry: Entry
    ) -> None:
        left = caller.time_remaining()
        deadline = None if left is None else asyncio.get_running_loop().time() + left
        config = self._config
        stream = FailoverStream(self._links, submit, deadline, config.router_wait_seconds, config.max_resubmits)
        try:
            while not answer.finished:
                arrivals = await stream.receive()
                entry.arrived(arrivals)
                response = answer.extend(arrivals)
                if answer.error is None or response.token_ids:
                    await self._write(response, caller, meter, entry)
                if answer.error is not None:
                    raise answer.error
        finally:
            stream.close()

    async def _write(
        self, response: pb.GenerateResponse, caller: ResponseWriter, meter: RequestMeter, entry: Entry
    ) -> None:
        await caller.write(response)
        if response.finish_reason:
            entry.finished(response)
            meter.finished(response, asyncio.get_running_loop().time())

    async def _submit_of(self, request: pb.GenerateRequest, entry: Entry) -> Submit:
        if len(entry.request_id) > MAX_REQUEST_ID_CHARACTERS:
            raise invalid("request_id", f"at most {MAX_REQUEST_ID_CHARACTERS} characters, has {len(entry.request_id)}")
        if request.return_scores and not request.return_routing:
            raise invalid("return_scores", "comes with the routing: set return_routing too, or leave it out")
        limits = self.limits()
        prompt = await encode_input(request, self._text, limits)
        sampling = resolve_sampling(request.sampling, self._text.defaults, limits, len(prompt))
        return Submit(
            stream=0,
            request_id=entry.request_id,
            prompt=prompt,
            sampling=sampling,
            return_routing=request.return_routing,
            traced=entry.traced,
            return_scores=request.return_scores,
        )

    def _answer(
        self, submit: Submit, request: pb.GenerateRequest, started: float, meter: RequestMeter
    ) -> ResponseBuilder:
        stops, prompt_tokens = list(request.sampling.stop), len(submit.prompt)
        return ResponseBuilder(submit.request_id, self._text.tokenizer, stops, prompt_tokens, started, meter.tokens)

    def _track(self, scope: asyncio.Timeout) -> None:
        self._active.add(scope)
        self._idle.clear()

    def _untrack(self, scope: asyncio.Timeout) -> None:
        self._active.discard(scope)
        if not self._active:
            self._idle.set()


def _time_left(caller: ResponseWriter) -> bool:
    """Whether a call ended before its deadline. The caller's clock began first, by the way that its call took."""
    left = caller.time_remaining()
    return left is None or left > ON_THE_WAY_S
