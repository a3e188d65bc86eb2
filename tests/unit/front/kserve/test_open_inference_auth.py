"""Tokens, roles and limits of the Open Inference Protocol's calls."""

import json
import time
from pathlib import Path

import grpc.aio
import pytest

from router_service.front.auth.tokens import Role, new_token
from router_service.protocol import open_inference_pb2 as kserve
from router_service.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.unit.front.front_fakes import until
from tests.unit.front.front_world import World
from tests.unit.front.kserve.asking import asked, refused, stream_of, streamed

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
LIMITS: dict[str, dict[str, int]] = {
    "ann": {},
    "streams": {"max_concurrent_streams": 1},
    "rate": {"requests_per_minute": 2},
    "size": {"max_request_bytes": 200},
}


class Gate:
    """A Front that asks for tokens."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.path = path
        self.tokens: dict[str, str] = {}
        self.lines: dict[str, str] = {}

    def admit(self, *names: str) -> None:
        for name in names:
            if name not in self.tokens:
                self.tokens[name], line = new_token(name, Role.INFERENCE)
                self.lines[name] = json.dumps(json.loads(line) | LIMITS[name])
        self.path.write_text("\n".join(self.lines[name] for name in names))

    def stub(self, channel: grpc.aio.Channel) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(channel)

    def of(self, name: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.tokens[name]}"),)


@pytest.fixture
async def gate(world: World, tmp_path: Path) -> Gate:
    gate = Gate(world, tmp_path / "tokens")
    gate.admit(*LIMITS)
    await world.router(step_s=0.005)
    await world.front(tokens_file=str(gate.path))
    await world.clients[0].wait_ready(10)
    return gate


@pytest.fixture
async def stub(gate: Gate):  # type: ignore[no-untyped-def]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.world.server.grpc_port}") as channel:
        yield GRPCInferenceServiceStub(channel)


async def test_probes_are_open_and_all_else_needs_a_token(gate: Gate, stub: GRPCInferenceServiceStub) -> None:
    assert (await stub.ServerLive(kserve.ServerLiveRequest())).live
    assert (await stub.ServerReady(kserve.ServerReadyRequest())).ready
    for call in (
        stub.ModelReady(kserve.ModelReadyRequest()),
        stub.ServerMetadata(kserve.ServerMetadataRequest()),
        stub.ModelMetadata(kserve.ModelMetadataRequest()),
        stub.ModelInfer(asked("a")),
        stub.ModelStreamInfer(stream_of([asked("a")])),
    ):
        assert (await refused(call))[0] is grpc.StatusCode.UNAUTHENTICATED
    metadata = gate.of("ann")
    assert (await stub.ModelInfer(asked("a", max_tokens=1), metadata=metadata)).outputs
    assert await streamed(stub.ModelStreamInfer(stream_of([asked("a", max_tokens=1)]), metadata=metadata))
    assert gate.world.routers[0].submits[0].caller == "ann"
    assert gate.world.routers[0].submits[1].caller == "ann"


async def test_a_stream_and_an_answer_count_as_streams(gate: Gate, stub: GRPCInferenceServiceStub) -> None:
    metadata = gate.of("streams")
    call = stub.ModelStreamInfer(stream_of([asked("a", stream=True, max_tokens=4000)]), metadata=metadata)
    await call.read()
    for second in (stub.ModelInfer(asked("a"), metadata=metadata), stub.ModelStreamInfer(metadata=metadata)):
        code, message = await refused(second)
        assert (code, "max_concurrent_streams of token streams: 1" in message) == (EXHAUSTED, True)
    call.cancel()
    await until(lambda: not gate.world.server.authenticator.open_streams("streams"))
    assert (await stub.ModelInfer(asked("a", max_tokens=1), metadata=metadata)).outputs


async def test_each_request_of_a_stream_counts(gate: Gate, stub: GRPCInferenceServiceStub) -> None:
    gate.world.clock = lambda: 0.0  # the minute stands still
    call = stub.ModelStreamInfer(stream_of([asked("a", max_tokens=1)] * 3), metadata=gate.of("rate"))
    assert (await call.read()).infer_response.outputs
    assert (await call.read()).infer_response.outputs
    code, message = await refused(call)
    assert (code, "requests_per_minute of token rate" in message) == (EXHAUSTED, True)


async def test_each_request_of_a_stream_has_a_size(gate: Gate, stub: GRPCInferenceServiceStub) -> None:
    requests = [asked("a", max_tokens=1), asked("x" * 300)]
    call = stub.ModelStreamInfer(stream_of(requests), metadata=gate.of("size"))
    assert (await call.read()).infer_response.outputs
    code, message = await refused(call)
    assert (code, "max_request_bytes of token size" in message) == (EXHAUSTED, True)
    assert len(gate.world.routers[0].submits) == 1


async def test_a_removed_token_ends_its_stream_at_the_next_request(gate: Gate, stub: GRPCInferenceServiceStub) -> None:
    call = stub.ModelStreamInfer(metadata=gate.of("ann"))
    await call.write(asked("a", max_tokens=1))
    assert (await call.read()).infer_response.outputs
    gate.admit("rate")
    gate.world.clock = lambda: time.monotonic() + 60  # the file is looked at again
    await call.write(asked("a", max_tokens=1))
    assert (await refused(call))[0] is grpc.StatusCode.UNAUTHENTICATED
