"""The `expertmesh.v1.Inference` service."""

import asyncio
from collections.abc import Mapping

from router_service.front.api.admission import Admission
from router_service.front.api.answering import Answering, failures_noted
from router_service.front.api.calls import Context, GrpcResponseWriter, ResponseWriter, answering, metadata_of
from router_service.front.api.model_card import ModelCard
from router_service.front.api.preparation import MAX_ANSWERS, Preparation
from router_service.front.api.prompts.prompt import encode_request
from router_service.front.api.prompts.text_encoding import LONG_TEXT_CHARACTERS
from router_service.front.api.prompts.token_texts import text_of_ids
from router_service.front.config import FrontConfig
from router_service.front.parsing.model_parsers import WHOLE
from router_service.front.parsing.parsed import AnswerParsers
from router_service.front.routing.length_limits import LengthLimits
from router_service.front.routing.router_pool import RouterPool
from router_service.front.telemetry.request_telemetry import RequestTelemetry
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceServicer
from router_service.structured.checks import StructuredChecks
from router_service.text.text_model import TextModel


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
        with failures_noted(record, writer), self._admission.admit(min(max(1, request.n), MAX_ANSWERS)) as scope:
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
            ids = await self.encoded(request)
            if len(ids) > LONG_TEXT_CHARACTERS:
                await asyncio.to_thread(response.ids.extend, ids)
            else:
                response.ids.extend(ids)
        return response

    async def encoded(self, request: pb.TokenizeRequest) -> list[int]:
        """Return the ids that Generate would use.

        Raises:
            RequestError: INVALID_ARGUMENT.
        """
        return await encode_request(request, self._text, self.limits())

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
        return await text_of_ids(request, self._text.tokenizer, self._card.vocabulary)

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
