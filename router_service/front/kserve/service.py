"""The `inference.GRPCInferenceService` service: the Open Inference Protocol over `InferenceService.answer`."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from router_service.front.api.calls import Context, answering, metadata_of, write_in_time
from router_service.front.api.inference_service import InferenceService
from router_service.front.errors import RequestError, invalid
from router_service.front.health import FrontHealth
from router_service.front.kserve.answers import CollectingWriter, StreamingWriter, blank_response, response_of
from router_service.front.kserve.requests import INPUTS, OUTPUTS, VERSION, Wanted, check_model, wanted_of
from router_service.protocol import open_inference_pb2 as kserve
from router_service.protocol.open_inference_pb2_grpc import GRPCInferenceServiceServicer

NAME = "expertmesh"
# Tensors that have one element however many texts there are.
SCALARS = ("stream", "sampling_parameters", "exclude_input_in_output")


class OpenInferenceService(GRPCInferenceServiceServicer):
    """Text in and out as tensors. A client that reads nothing of a stream for `patience_s` loses it."""

    def __init__(self, inference: InferenceService, health: FrontHealth, patience_s: float) -> None:
        self._inference = inference
        self._health = health
        self._patience_s = patience_s

    async def ServerLive(self, request: kserve.ServerLiveRequest, context: Context) -> kserve.ServerLiveResponse:  # noqa: ARG002
        """Say that the process runs."""
        return kserve.ServerLiveResponse(live=True)

    async def ServerReady(self, request: kserve.ServerReadyRequest, context: Context) -> kserve.ServerReadyResponse:  # noqa: ARG002
        """Return whether requests can be served now."""
        return kserve.ServerReadyResponse(ready=self._health.serving)

    async def ModelReady(self, request: kserve.ModelReadyRequest, context: Context) -> kserve.ModelReadyResponse:  # noqa: ARG002
        """Return whether the named model can be asked now."""
        ours = request.name in ("", self._model) and request.version in ("", VERSION)
        return kserve.ModelReadyResponse(ready=ours and self._health.serving)

    async def ServerMetadata(
        self,
        request: kserve.ServerMetadataRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> kserve.ServerMetadataResponse:
        """Name the server."""
        return kserve.ServerMetadataResponse(name=NAME, version=_version())

    async def ModelMetadata(
        self, request: kserve.ModelMetadataRequest, context: Context
    ) -> kserve.ModelMetadataResponse:
        """Describe the model's tensors."""
        response = kserve.ModelMetadataResponse(name=self._model, versions=[VERSION], platform=NAME)
        async with answering(context):
            check_model(request.name, request.version, self._model)
            for name, datatype in INPUTS.items():
                response.inputs.add(name=name, datatype=datatype, shape=[1 if name in SCALARS else -1])
            for name, datatype in OUTPUTS.items():
                response.outputs.add(name=name, datatype=datatype, shape=[-1])
        return response

    async def ModelInfer(self, request: kserve.ModelInferRequest, context: Context) -> kserve.ModelInferResponse:
        """Answer all texts of a request at once."""
        response = kserve.ModelInferResponse()
        async with answering(context, request.id) as request_id:
            wanted = wanted_of(request, self._model)
            if wanted.stream:
                raise invalid("stream", "needs ModelStreamInfer: call that, or leave it out")
            response.MergeFrom(await self._answered(wanted, context, request_id))
        return response

    async def ModelStreamInfer(self, requests: AsyncIterator[kserve.ModelInferRequest], context: Context) -> None:
        """Answer the requests of a stream one after the other."""
        async with answering(context) as call_id:
            number = 0
            async for request in requests:
                await self._stream(request, context, request.id or f"{call_id}-{number}")
                number += 1

    async def _stream(self, request: kserve.ModelInferRequest, context: Context, request_id: str) -> None:
        blank = blank_response(self._model, request_id)
        try:
            wanted = wanted_of(request, self._model)
            if not wanted.stream:
                last = kserve.ModelStreamInferResponse(infer_response=await self._answered(wanted, context, request_id))
            elif len(wanted.requests) > 1:
                raise invalid("text_input", "a streamed request has one text: send several requests, or no stream")
            else:
                writer = StreamingWriter(context, blank, wanted, self._patience_s)
                return await self._inference.answer(wanted.requests[0], writer, self._metadata(context), request_id)
        except RequestError as error:
            last = kserve.ModelStreamInferResponse(error_message=error.message, infer_response=blank)
            last.infer_response.parameters["code"].string_param = error.code.name
        last.infer_response.parameters["triton_final_response"].bool_param = True
        return await write_in_time(context, last, self._patience_s)

    async def _answered(self, wanted: Wanted, context: Context, request_id: str) -> kserve.ModelInferResponse:
        writers = [CollectingWriter(context) for _ in wanted.requests]
        many, metadata = len(writers) > 1, self._metadata(context)
        try:
            async with asyncio.TaskGroup() as group:
                for index, (one, writer) in enumerate(zip(wanted.requests, writers, strict=True)):
                    # One of several has an id of its own; a failure of one ends the others.
                    id = f"{request_id}-{index}" if many else request_id
                    group.create_task(self._inference.answer(one, writer, metadata, id))
        except ExceptionGroup as errors:
            raise _refusal(errors) from errors
        answers = [writer.answer for writer in writers]
        for one, answer in zip(wanted.requests, answers, strict=True):
            answer.text = one.prompt + answer.text if wanted.with_input else answer.text
        return response_of(blank_response(self._model, request_id), wanted, answers)

    @property
    def _model(self) -> str:
        return self._inference.model().name

    @staticmethod
    def _metadata(context: Context) -> Mapping[str, str]:
        return metadata_of(context.invocation_metadata())


def _refusal(errors: ExceptionGroup[Exception]) -> Exception:
    """Return one refusal among errors of several requests, all of them if there is none."""
    refusals = [error for error in errors.exceptions if isinstance(error, RequestError)]
    return refusals[0] if refusals else errors


def _version() -> str:
    try:
        return version("expertmesh")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
