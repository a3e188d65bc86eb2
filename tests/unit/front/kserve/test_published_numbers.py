"""Names and numbers of the Open Inference Protocol as it is published: a platform's own stubs have these."""

from router_service.protocol import open_inference_pb2 as kserve

TENSOR = {"name": 1, "datatype": 2, "shape": 3, "parameters": 4, "contents": 5}
FIELDS = {
    "ServerLiveResponse": {"live": 1},
    "ServerReadyResponse": {"ready": 1},
    "ModelReadyRequest": {"name": 1, "version": 2},
    "ModelReadyResponse": {"ready": 1},
    "ServerMetadataResponse": {"name": 1, "version": 2, "extensions": 3},
    "ModelMetadataRequest": {"name": 1, "version": 2},
    "ModelMetadataResponse": {"name": 1, "versions": 2, "platform": 3, "inputs": 4, "outputs": 5},
    "ModelMetadataResponse.TensorMetadata": {"name": 1, "datatype": 2, "shape": 3},
    "InferParameter": {
        **{"bool_param": 1, "int64_param": 2, "string_param": 3},
        **{"double_param": 4, "uint64_param": 5},
    },
    "InferTensorContents": {
        **{"bool_contents": 1, "int_contents": 2, "int64_contents": 3, "uint_contents": 4, "uint64_contents": 5},
        **{"fp32_contents": 6, "fp64_contents": 7, "bytes_contents": 8},
    },
    "ModelInferRequest": {
        **{"model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6},
        **{"raw_input_contents": 7},
    },
    "ModelInferRequest.InferInputTensor": TENSOR,
    "ModelInferRequest.InferRequestedOutputTensor": {"name": 1, "parameters": 2},
    "ModelInferResponse": {
        **{"model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "outputs": 5},
        **{"raw_output_contents": 6},
    },
    "ModelInferResponse.InferOutputTensor": TENSOR,
    "ModelStreamInferResponse": {"error_message": 1, "infer_response": 2},
}


def test_fields_have_their_published_numbers() -> None:
    for name, numbers in FIELDS.items():
        message = kserve.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{name}")
        assert {field.name: field.number for field in message.fields} == numbers, name


def test_the_service_has_its_published_name() -> None:
    service = kserve.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == "inference.GRPCInferenceService"
    streams = {method.name: (method.client_streaming, method.server_streaming) for method in service.methods}
    unary = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
    assert streams == dict.fromkeys(unary, (False, False)) | {"ModelStreamInfer": (True, True)}
