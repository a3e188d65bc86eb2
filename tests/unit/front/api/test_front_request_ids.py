"""The id that a client gets back from every call, so that whoever is told of a failure finds its lines."""

import io
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.front.auth.tokens import Role, new_token
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.protocol.request_id import PLAIN, REQUEST_ID_KEY, new_request_id, request_id_metadata, request_id_of
from tests.unit.front.commands import command, serve
from tests.unit.front.front_fakes import failing, refuse
from tests.unit.front.front_world import World

MINE = ((REQUEST_ID_KEY, "mine"),)


class Dial:
    """One channel to the world's Front, for the calls' metadata."""

    def __init__(self, world: World) -> None:
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}")
        self.stub = InferenceStub(self.channel)

    async def __aenter__(self) -> "Dial":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def generate(self, request_id: str = "", metadata: Any = (), timeout: float | None = None, **fields: Any) -> Any:
        asked = {"prompt": "hello", "sampling": pb.Sampling(max_tokens=2)} | fields
        request = pb.GenerateRequest(request_id=request_id, **asked)  # type: ignore[arg-type]
        return self.stub.Generate(request, metadata=metadata, timeout=timeout)


def ids(metadata: Any) -> list[str]:
    return [value for key, value in metadata or () if key == REQUEST_ID_KEY]


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call if isinstance(call, Awaitable) else read(call))
    return caught.value


async def read(call: Any) -> list[pb.GenerateResponse]:
    return [response async for response in call]


async def test_an_answer_begins_and_ends_with_its_id(world: World) -> None:
    await world.serve()
    async with Dial(world) as dial:
        for named, expected in ((dial.generate("a"), "a"), (dial.generate("", MINE), "mine"), (dial.generate(), None)):
            (told,) = {response.request_id async for response in named}
            assert ids(await named.initial_metadata()) == ids(await named.trailing_metadata()) == [told]
            assert told == (expected or told)
            assert told


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL"])
async def test_a_router_that_refuses_leaves_the_id(world: World, code: str) -> None:
    await world.serve(script=refuse(code, "no"))
    async with Dial(world) as dial:
        error = await failed(dial.generate("a"))
        assert (error.code().name, request_id_of(error)) == (code, "a")


async def test_a_request_that_is_wrong_has_an_id_and_may_be_retried(world: World) -> None:
    """Headers before the end would tell gRPC's own retries to leave it alone."""
    await world.serve()
    async with Dial(world) as dial:
        error = await failed(dial.generate("a", sampling=pb.Sampling(top_p=2)))
        assert (error.code(), request_id_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "a")
        assert ids(error.initial_metadata()) == []
        error = await failed(dial.generate("x" * 300))
        assert request_id_of(error) == "x" * 256


async def test_a_fault_of_ours_has_an_id(world: World) -> None:
    await world.front(failing(world.text, TypeError("a bug")))
    async with Dial(world) as dial:
        error = await failed(dial.generate("a"))
        assert (error.code(), request_id_of(error)) == (grpc.StatusCode.INTERNAL, "a")


async def test_a_deadline_leaves_the_id(world: World) -> None:
    """The client ends such a call itself and never sees the Front's end of it."""
    router, _ = await world.serve(stall_after_steps=0)
    async with Dial(world) as dial:
        error = await failed(dial.generate("a", timeout=5.0))
        assert (error.code(), request_id_of(error)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "a")
    assert router.submits[0].request_id == "a"


async def test_a_draining_front_names_what_it_refuses(world: World) -> None:
    await world.serve()
    await world.server.admission.drain(0)
    async with Dial(world) as dial:
        error = await failed(dial.generate("", MINE))
        assert (error.details(), request_id_of(error)) == ("the server is draining", "mine")


async def test_the_other_calls_have_ids_too(world: World) -> None:
    await world.serve()
    async with Dial(world) as dial:
        for call in (
            dial.stub.Tokenize(pb.TokenizeRequest(prompt="a"), metadata=MINE),
            dial.stub.Detokenize(pb.DetokenizeRequest(ids=[9]), metadata=MINE),
            dial.stub.GetModel(pb.GetModelRequest(), metadata=MINE),
        ):
            await call
            assert ids(await call.trailing_metadata()) == ["mine"]
        wrong = dial.stub.Detokenize(pb.DetokenizeRequest(ids=[1 << 30]), metadata=MINE)
        assert request_id_of(await failed(wrong)) == "mine"


async def test_a_stranger_gets_the_id_of_the_line_that_refuses_it(
    world: World, tmp_path: Path, written: io.StringIO
) -> None:
    """An id of ours: what a stranger sends is neither sent back nor written down."""
    (tmp_path / "tokens").write_text(new_token("ann", Role.INFERENCE)[1])
    await world.front(tokens_file=str(tmp_path / "tokens"))
    async with Dial(world) as dial:
        drawn = [request_id_of(await failed(dial.generate("unread", given))) for given in (MINE, ())]
    lines = map(json.loads, written.getvalue().splitlines())
    said = [line["request_id"] for line in lines if line["message"].startswith("refused")]
    assert said == drawn
    assert len(set(drawn)) == 2
    assert "mine" not in written.getvalue()


async def test_the_command_prints_the_id_of_what_failed(world: World) -> None:
    target = await serve(world, script=refuse("UNAVAILABLE", "shard 1 is away"))
    code, _, err = await command("generate", "hello", target=target)
    (submit,) = world.routers[0].submits
    assert (code, err) == (
        2,
        f"expertmesh: {target}: UNAVAILABLE: shard 1 is away (request {submit.request_id})\n",
    )


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=256))
def test_any_id_comes_back(request_id: str) -> None:
    metadata = request_id_metadata(request_id)
    assert set(metadata[0][1]) <= {*PLAIN, "%"}
    ends = grpc.aio.Metadata(*metadata)
    assert request_id_of(grpc.aio.AioRpcError(grpc.StatusCode.OK, grpc.aio.Metadata(), ends)) == request_id


def test_a_drawn_id_is_another_each_time() -> None:
    assert len({new_request_id("", {}) for _ in range(100)}) == 100
