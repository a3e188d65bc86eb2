"""A platform's calls by the Open Inference Protocol."""

from collections.abc import Iterable
from typing import Any

import grpc.aio

from router_service.protocol import open_inference_pb2 as kserve


def asked(*texts: str, name: str = "text_input", id: str = "", **parameters: object) -> kserve.ModelInferRequest:
    """A request with its texts as contents."""
    request = kserve.ModelInferRequest(model_name="tiny", id=id)
    contents = kserve.InferTensorContents(bytes_contents=[text.encode() for text in texts])
    request.inputs.add(name=name, datatype="BYTES", shape=[len(texts)], contents=contents)
    for key, value in parameters.items():
        request.parameters[key].CopyFrom(parameter(value))
    return request


def parameter(value: object) -> kserve.InferParameter:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return kserve.InferParameter(**{kinds[type(value)]: value})  # type: ignore[arg-type]


def plain(response: kserve.ModelInferResponse) -> dict[str, Any]:
    """The parameters of a response."""
    return {name: getattr(one, str(one.WhichOneof("parameter_choice"))) for name, one in response.parameters.items()}


def texts_of(response: kserve.ModelInferResponse) -> list[str]:
    (output,) = response.outputs
    assert (output.name, output.datatype) == ("text_output", "BYTES")
    assert list(output.shape) == [len(output.contents.bytes_contents)]
    return [text.decode() for text in output.contents.bytes_contents]


async def streamed(call: Any) -> list[kserve.ModelStreamInferResponse]:
    return [response async for response in call]


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call ends, a stream's behind what is left of it."""
    try:
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code(), str(error.details())
    raise AssertionError("it is answered")


def stream_of(requests: Iterable[kserve.ModelInferRequest]) -> Any:
    async def send() -> Any:
        for request in requests:
            yield request

    return send()
