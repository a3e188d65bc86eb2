"""What the Front logs of requests: their ids, and never what is in them."""

import io
import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from router_service.client.client import Client
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from tests.unit.front.calls import collect, text_of
from tests.unit.front.front_fakes import echo, failing, refuse
from tests.unit.front.front_world import World

Lines = Callable[..., list[dict[str, Any]]]
SECRET_TEXT = "the lazy fox"


@pytest.fixture
def lines(written: io.StringIO) -> Lines:
    def found(message: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, written.getvalue().splitlines()) if line["message"] == message]

    return found


async def generate(world: World, request_id: str, *metadata: tuple[str, str]) -> str:
    request = pb.GenerateRequest(prompt="hello", request_id=request_id, sampling=pb.Sampling(max_tokens=1))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        responses = [response async for response in InferenceStub(channel).Generate(request, metadata=metadata)]
    return responses[-1].request_id


async def test_a_request_has_its_own_id_or_its_callers_or_a_drawn_one(world: World, lines: Lines) -> None:
    router, _ = await world.serve()
    ids = [
        await generate(world, "in the request", ("x-request-id", "in the metadata")),
        await generate(world, "", ("x-request-id", "in the metadata")),
        await generate(world, ""),
        await generate(world, "", ("x-request-id-bin", b"\xff")),  # type: ignore[arg-type]
    ]
    assert ids[:2] == ["in the request", "in the metadata"]
    assert len(set(ids)) == 4
    assert [submit.request_id for submit in router.submits] == ids
    assert [line["request_id"] for line in lines("request accepted")] == ids
    assert [line["request_id"] for line in lines("request finished")] == ids


async def test_an_id_that_is_too_long_is_refused_and_cut_in_the_log(world: World, lines: Lines) -> None:
    await world.serve()
    for place in (("x" * 257,), ("", ("x-request-id", "x" * 257))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await generate(world, *place)  # type: ignore[arg-type]
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "at most 256 characters, has 257" in str(caught.value.details())
    assert [line["request_id"] for line in lines("request failed")] == ["x" * 256] * 2


async def test_the_last_line_says_how_a_request_went(world: World, lines: Lines) -> None:
    _, client = await world.serve(script=echo)
    prompt = len(await client.tokenize("hello"))
    await collect(client, "hello", max_tokens=5, request_id="a")
    (line,) = lines("request finished")
    assert (line["finish"], line["prompt_tokens"], line["tokens"]) == ("length", prompt, 5)
    assert (line["queue_seconds"], line["prefill_seconds"], line["decode_seconds"]) == (0.25, 0.5, 1.0)
    assert 0 < line["seconds"] < 60


async def test_a_failure_has_its_code_and_our_own_words(world: World, lines: Lines) -> None:
    _, client = await world.serve(script=refuse("UNAVAILABLE", "shard 1 is away"))
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(client, "hello", max_tokens=5, request_id="a")
    (line,) = lines("request failed")
    assert (line["level"], line["request_id"], line["code"]) == ("WARNING", "a", "UNAVAILABLE")
    assert line["reason"] == "shard 1 is away"
    assert lines("request accepted") == [], "a router has refused it"


async def test_a_lost_router_is_told_with_the_request_that_lost_it(world: World, lines: Lines) -> None:
    _, client = await world.serve(die_after_steps=2, step_s=0.01)
    await world.router()
    await collect(client, "hello", max_tokens=20, request_id="moved")
    (line,) = lines("request accepted")
    assert line["request_id"] == "moved"
    assert len(lines("link to router r0 is up")) == 2
    lost = "a request has lost its router and goes to another one: the link to router r0 has ended"
    assert [line["request_id"] for line in lines(lost)] == ["moved"]


async def test_drain_says_when_it_begins_and_ends(world: World, lines: Lines) -> None:
    await world.serve()
    await world.server.drain(3.0)
    assert [line["streams"] for line in lines("drain begins")] == [0]
    assert len(lines("drain ends, all streams have ended")) == 1


async def test_no_line_holds_a_prompt_or_generated_text(world: World, written: io.StringIO) -> None:
    router, client = await world.serve()
    ids = await client.tokenize(SECRET_TEXT)
    assert text_of(await collect(client, SECRET_TEXT, max_tokens=40)).startswith(SECRET_TEXT)
    await collect(client, SECRET_TEXT, max_tokens=40, stop=[SECRET_TEXT])
    await _fail(client, "role", messages=[{"role": SECRET_TEXT, "content": SECRET_TEXT}])
    router.script = refuse("INVALID_ARGUMENT", f"cannot take {SECRET_TEXT}")
    await _fail(client, SECRET_TEXT, prompt=SECRET_TEXT)
    client = await world.front(failing(world.text, ValueError(f"cannot do {SECRET_TEXT}")))
    await _fail(client, SECRET_TEXT, prompt=SECRET_TEXT)
    text = written.getvalue()
    assert [text.count(f'"message": "{end}"') for end in ("request finished", "request failed")] == [2, 3]
    assert "ValueError" in text
    assert SECRET_TEXT not in text
    assert str(ids)[1:-1] not in text


async def _fail(client: Client, said: str, **request: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(client, **request)
    assert said in str(caught.value.details())
