"""The `expertmesh.v1.Inference` service."""

import asyncio
from collections.abc import Mapping

from router_service.front.api.admission import Admission
from router_service.front.api.answering import Answering, failures_noted
from router_service.front.api.calls import Context, GrpcResponseWriter, ResponseWriter, answering, metadata_of
from router_service.front.api.model_card import ModelCard
from router_service.front.api.preparation import Preparation
from router_service.front.api.prompt import LONG_TEXT_CHARACTERS, encode_request
from router_service.front.api.sampling import check_token_ids
from router_service.front.config import FrontConfig
from router_service.front.errors import invalid
from router_service.front.parsing.parsed import WHOLE, AnswerParsers
from router_service.front.routing.length_limits import LengthLimits
from router_service.front.routing.router_pool import RouterPool
from router_service.front.telemetry.request_telemetry import RequestTelemetry
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceServicer
from router_service.structured.checks import StructuredChecks
from router_service.text.text_model import TextModel

# Of one Detokenize: about a second of a thread.
MAX_DETOKENIZED = 1 << 20


class InferenceService(InferenceServicer):
    """Generate, Tokenize, Detokenize, GetModel."""

    def __init__(
        self,
        *,
        text: TextModel,
        card: ModelCard,
        router_pool: RouterPool,
        config: FrontConfig,
        admission: Admission,
        telemetry: RequestTelemetry,
        parsers: AnswerParsers = WHOLE,
    ) -> None:
        """`parsers` are those of the model's answers."""
        self._text = text
        self._card = card
        self._router_pool = router_pool
        self._config = config
        self._telemetry = telemetry
        self._admission = admission
        self._parsers = parsers
        checks = StructuredChecks(text.tokenizer, card.vocabulary, text.defaults.eos_token_ids)
        self._preparation = Preparation(text, parsers, checks, config)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:
        """Stream an answer that ends in exactly one final message or error status."""
        async with answering(context, request.request_id) as request_id:
            metadata = metadata_of(context.invocation_metadata())
            writer = GrpcResponseWriter(context, self._config.slow_reader_seconds)
            await self.answer(request, writer, metadata, request_id)

    async def answer(
        self,
        request: pb.GenerateRequest,
        writer: ResponseWriter,
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> None:
        """Write the answer to `writer`, with exactly one final message; `metadata` and `request_id` are a gRPC call's.

        Raises:
            RequestError: the request was refused, or failed.
        """
        record = self._telemetry.begin(request, metadata or {}, request_id)
        with failures_noted(record, writer), self._admission.admit() as scope:
            answer = Answering(
                request=request,
                writer=writer,
                record=record,
                preparation=self._preparation,
                tokenizer=self._text.tokenizer,
                router_pool=self._router_pool,
                config=self._config,
            )
            await answer.run(self.limits(), scope)

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Return the ids that Generate would use."""
        response = pb.TokenizeResponse()
        async with answering(context):
            response.ids.extend(await self.encoded(request))
        return response

    async def encoded(self, request: pb.TokenizeRequest) -> list[int]:
        """Return the ids that Generate would use.

        Raises:
            RequestError: INVALID_ARGUMENT.
        """
        return await encode_request(request, self._text)

    async def Detokenize(self, request: pb.DetokenizeRequest, context: Context) -> pb.DetokenizeResponse:
        """Return the text of token ids."""
        response = pb.DetokenizeResponse()
        async with answering(context):
            response.text = await self.decoded(request)
        return response

    async def decoded(self, request: pb.DetokenizeRequest) -> str:
        """Return the text of token ids.

        Raises:
            RequestError: INVALID_ARGUMENT, an id is not the model's, or there are too many.
        """
        if len(request.ids) > MAX_DETOKENIZED:
            raise invalid("ids", f"at most {MAX_DETOKENIZED} ids, got {len(request.ids)}: send them in several calls")
        check_token_ids("ids", request.ids, self._card.vocabulary, self._text.tokenizer)
        skip = request.skip_special_tokens or not request.HasField("skip_special_tokens")
        decode, ids = self._text.tokenizer.decode, list(request.ids)
        # The library releases the GIL, so other streams continue meanwhile.
        return await asyncio.to_thread(decode, ids, skip) if len(ids) > LONG_TEXT_CHARACTERS else decode(ids, skip)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.ModelInfo:  # noqa: ARG002
        """Describe the model."""
        async with answering(context):
            return self.model()

    def limits(self) -> LengthLimits:
        """The current limits on the length of a request."""
        return self._router_pool.limits(self._card.context, self._card.vocabulary)

    def model(self) -> pb.ModelInfo:
        """Describe the model, with the limits of the connected routers."""
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
            reasoning_parser=self._parsers.reasoning,
            tool_parser=self._parsers.tools,
        )
