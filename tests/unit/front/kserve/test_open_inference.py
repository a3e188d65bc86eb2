"""The Open Inference Protocol over a real socket, by the protocol's own stubs."""

import asyncio
import struct
from collections.abc import AsyncIterator

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from router_service.protocol import open_inference_pb2 as kserve
from router_service.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from router_service.protocol.request_id import REQUEST_ID_KEY
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World
from tests.unit.front.kserve.asking import asked, plain, refused, stream_of, streamed, texts_of

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.fixture
async def channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    await world.serve()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


async def test_the_server_and_its_model_are_described(stub: GRPCInferenceServiceStub, world: World) -> None:
    assert (await stub.ServerLive(kserve.ServerLiveRequest())).live
    assert (await stub.ServerReady(kserve.ServerReadyRequest())).ready
    assert (await stub.ModelReady(kserve.ModelReadyRequest(name="tiny"))).ready
    assert not (await stub.ModelReady(kserve.ModelReadyRequest(name="other"))).ready
    assert (await stub.ServerMetadata(kserve.ServerMetadataRequest())).name == "expertmesh"
    model = await stub.ModelMetadata(kserve.ModelMetadataRequest(name="tiny"))
    assert (model.name, list(model.versions), model.platform) == ("tiny", ["1"], "expertmesh")
    assert next((one.name, one.datatype) for one in model.inputs) == ("text_input", "BYTES")
    assert next((one.name, one.datatype) for one in model.outputs) == ("text_output", "BYTES")
    world.server.health.drain()
    assert not (await stub.ServerReady(kserve.ServerReadyRequest())).ready
    assert (await stub.ServerLive(kserve.ServerLiveRequest())).live


async def test_reflection_and_health_know_the_service(channel: grpc.aio.Channel) -> None:
    name = "inference.GRPCInferenceService"
    checked = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    assert checked.status == health_pb2.HealthCheckResponse.SERVING
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
    (answer,) = [answer async for answer in call]
    assert name in [service.name for service in answer.list_services_response.service]


async def test_a_text_is_answered(stub: GRPCInferenceServiceStub, world: World) -> None:
    call = stub.ModelInfer(asked("hello", id="mine", max_tokens=2, temperature=0.5, stop="zzz", unheard_of="x"))
    response = await call
    assert (response.model_name, response.model_version, response.id) == ("tiny", "1", "mine")
    # The router of these tests says the prompt again and again; a text comes in front of its answer.
    prompt = world.routers[0].submits[0].prompt
    assert texts_of(response) == ["hello" + world.text.tokenizer.decode((prompt * 2)[:2], True)]
    assert plain(response) == {
        "finish_reason": "length",
        "prompt_tokens": len(prompt),
        "cached_prompt_tokens": 3,
        "generated_tokens": 2,
    }
    sampling = world.routers[0].submits[0].sampling
    assert (sampling.max_tokens, sampling.temperature) == (2, 0.5)
    assert dict(await call.trailing_metadata())[REQUEST_ID_KEY] == "mine"


@pytest.mark.parametrize("name", ["text_input", "prompt", "text"])
async def test_several_texts_are_answered_together(stub: GRPCInferenceServiceStub, world: World, name: str) -> None:
    response = await stub.ModelInfer(
        asked("a", "b", "c", name=name, id="mine", max_tokens=3, exclude_input_in_output=True)
    )
    assert texts_of(response) == ["aaa", "bbb", "ccc"]
    assert plain(response)["finish_reason"] == "length,length,length"
    assert plain(response)["generated_tokens"] == 9
    assert sorted(submit.request_id for submit in world.routers[0].submits) == ["mine-0", "mine-1", "mine-2"]


async def test_raw_contents_are_answered_raw(stub: GRPCInferenceServiceStub) -> None:
    """As Triton's clients send them: lengths before elements, and the sampling as a tensor of JSON."""
    request = kserve.ModelInferRequest(model_name="tiny")
    settings = b'{"max_tokens": "3", "temperature": 0, "top_k": null, "stop": ["x"]}'
    for name, datatype, raw in (
        ("text_input", "BYTES", struct.pack("<I", 1) + b"a"),
        ("sampling_parameters", "BYTES", struct.pack("<I", len(settings)) + settings),
        ("exclude_input_in_output", "BOOL", b"\1"),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=[1])
        request.raw_input_contents.append(raw)
    for name in ("text_output", "finish_reason", "num_output_tokens"):
        request.outputs.add(name=name)
    response = await stub.ModelInfer(request)
    assert [(one.name, one.datatype, list(one.shape)) for one in response.outputs] == [
        ("text_output", "BYTES", [1]),
        ("finish_reason", "BYTES", [1]),
        ("num_output_tokens", "UINT32", [1]),
    ]
    texts = [b"aaa", b"length"]
    assert list(response.raw_output_contents) == [
        *(struct.pack("<I", len(text)) + text for text in texts),
        struct.pack("<I", 3),
    ]


async def test_a_stream_has_pieces_and_an_end(stub: GRPCInferenceServiceStub) -> None:
    responses = await streamed(stub.ModelStreamInfer(stream_of([asked("a", id="mine", stream=True, max_tokens=4)])))
    assert {one.error_message for one in responses} == {""}
    assert {one.infer_response.id for one in responses} == {"mine"}
    assert "".join(text for one in responses for text in texts_of(one.infer_response)) == "aaaa"
    assert len(responses) > 1
    finals = [plain(one.infer_response).get("triton_final_response") for one in responses]
    assert finals == [False] * (len(responses) - 1) + [True]
    assert plain(responses[-1].infer_response)["finish_reason"] == "length"


async def test_requests_of_a_stream_are_answered_in_order_whatever_becomes_of_one(
    stub: GRPCInferenceServiceStub, world: World
) -> None:
    requests = [
        asked("a", max_tokens=2),
        asked("b", id="bad", temperature=-1.0, stream=True),
        asked("c", stream=True, max_tokens=2, exclude_input_in_output=False),
    ]
    call = stub.ModelStreamInfer(stream_of(requests), metadata=((REQUEST_ID_KEY, "call"),))
    responses = await streamed(call)
    assert texts_of(responses[0].infer_response) == ["aaa"]
    assert responses[1].error_message.startswith("sampling.temperature: must be at least 0")
    assert responses[1].infer_response.id == "bad"
    assert plain(responses[1].infer_response) == {"code": "INVALID_ARGUMENT", "triton_final_response": True}
    assert "".join(text for one in responses[2:] for text in texts_of(one.infer_response)) == "ccc"
    assert [submit.request_id for submit in world.routers[0].submits] == ["call-0", "call-2"]


async def test_a_stream_that_is_cancelled_frees_its_router(stub: GRPCInferenceServiceStub, world: World) -> None:
    call = stub.ModelStreamInfer(stream_of([asked("a", stream=True, max_tokens=4000)]))
    await call.read()
    call.cancel()
    await until(lambda: world.server.streams == 0 and not world.routers[0].running)


async def test_texts_of_a_failed_request_end_together(stub: GRPCInferenceServiceStub, world: World) -> None:
    code, message = await refused(stub.ModelInfer(asked("a" * 3000, "b" * 9000, max_tokens=1000)))
    assert (code, "at most" in message) == (INVALID, True)
    await until(lambda: world.server.streams == 0 and not world.routers[0].running)


def changed(**fields: object) -> kserve.ModelInferRequest:
    request = asked("a")
    request.MergeFrom(kserve.ModelInferRequest(**fields))  # type: ignore[arg-type]
    return request


def shaped(shape: list[int], datatype: str = "BYTES") -> kserve.ModelInferRequest:
    request = asked("a")
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend(shape)
    request.inputs[0].datatype = datatype
    return request


Tensor = kserve.ModelInferRequest.InferInputTensor
REFUSED = {
    "model 'other' is not served here": (NOT_FOUND, changed(model_name="other")),
    "model 'tiny' version '7' is not": (NOT_FOUND, changed(model_version="7")),
    "exactly one of text_input, prompt, text is required, got none": (INVALID, kserve.ModelInferRequest()),
    "got text_input, prompt": (INVALID, changed(inputs=[Tensor(name="prompt", datatype="BYTES", shape=[0])])),
    "inputs[1] (text_input): the inputs are": (INVALID, changed(inputs=[Tensor(name="text_input")])),
    "inputs[1] (image): the inputs are": (INVALID, changed(inputs=[Tensor(name="image")])),
    "has 1 elements, its shape is [2]": (INVALID, shaped([2])),
    "has 1 elements, its shape is [-1]": (INVALID, shaped([-1])),
    "its datatype is BYTES, got 'FP32'": (INVALID, shaped([1], "FP32")),
    "text_input: must have 1 to 128 texts, has 0": (INVALID, asked()),
    "text_input: must have 1 to 128 texts, has 129": (INVALID, asked(*["a"] * 129)),
    "its raw contents end within an element": (INVALID, changed(raw_input_contents=[b"\5\0\0\0a"])),
    "raw contents end within an element: each": (INVALID, changed(raw_input_contents=[b"\5\0"])),
    "raw_input_contents: has 2 entries, inputs has 1": (INVALID, changed(raw_input_contents=[b"", b""])),
    "text_input: must be UTF-8": (INVALID, changed(raw_input_contents=[b"\1\0\0\0\xff"])),
    "outputs: there is no 'logits'": (
        INVALID,
        changed(outputs=[kserve.ModelInferRequest.InferRequestedOutputTensor(name="logits")]),
    ),
    "stream: needs ModelStreamInfer": (INVALID, asked("a", stream=True)),
    "stream: must be one BOOL, got ['yes']": (INVALID, asked("a", stream="yes")),
    "sampling_parameters: must be a JSON object: ": (INVALID, asked("a", sampling_parameters="{")),
    "sampling_parameters: must be a JSON object, got list": (INVALID, asked("a", sampling_parameters="[]")),
    "parameters.sampling_parameters: must be a text": (INVALID, asked("a", sampling_parameters=1)),
    "sampling_parameters.'max_token': is none of max_tokens": (
        INVALID,
        asked("a", sampling_parameters='{"max_token": 1}'),
    ),
    "sampling_parameters.max_tokens: must be int": (INVALID, asked("a", sampling_parameters='{"max_tokens": -1}')),
    "sampling_parameters.stop: must be a list of str": (INVALID, asked("a", sampling_parameters='{"stop": [1]}')),
    "parameters.temperature: must be float": (INVALID, asked("a", temperature="warm")),
    "parameters.max_tokens: must be int": (INVALID, asked("a", max_tokens=True)),
    "sampling.top_p: must be over 0": (INVALID, asked("a", top_p=2.0)),
}


@pytest.mark.parametrize("words", REFUSED)
async def test_bad_requests_are_refused_by_name(stub: GRPCInferenceServiceStub, words: str) -> None:
    expected, request = REFUSED[words]
    code, message = await refused(stub.ModelInfer(request))
    assert (code, words in message) == (expected, True), message


async def test_a_stream_takes_one_text_at_a_time(stub: GRPCInferenceServiceStub) -> None:
    (response,) = await streamed(stub.ModelStreamInfer(stream_of([asked("a", "b", stream=True)])))
    assert response.error_message.startswith("text_input: a streamed request has one text")


async def test_many_calls_at_once_keep_their_texts(stub: GRPCInferenceServiceStub) -> None:
    names = "abcdefghij"
    answers = await asyncio.gather(*(stub.ModelInfer(asked(name, max_tokens=3)) for name in names))
    assert [texts_of(answer) for answer in answers] == [[4 * name] for name in names]
