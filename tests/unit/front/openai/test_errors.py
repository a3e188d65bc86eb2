"""Errors in OpenAI's form, with the words of gRPC and the fields that the client wrote."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from router_service.front.errors import unavailable
from router_service.front.openai.answers.chat_stream import ChatStream
from router_service.front.openai.body import UnknownFields
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.protocol.messages import StreamFailure, StreamOutput, Submit
from tests.unit.front.front_fakes import echo, refuse, until
from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, call, error_in, events_in

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"max_tokens": "5"}, "max_tokens", "expected int, got str"),
        ({"max_tokens": -1}, "max_tokens", "expected int >= 0"),
        ({"max_tokens": 5000}, "max_tokens", "must be 1 to"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens", "must be 1 to"),
        ({"temperature": -1}, "temperature", "must be at least 0"),
        ({"temperature": 1e300}, "temperature", "and finite"),
        ({"top_k": -2}, "top_k", "-2"),
        ({"n": 0}, "n", "at least 1"),
        ({"n": 999}, "n", "128"),
        ({"seed": 1 << 70}, "seed", "must be"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stop": [""]}, "stop[0]", "1 to 256"),
        ({"stop": [1]}, "stop[0]", "expected str"),
        ({"logit_bias": {"x": 1}}, "logit_bias[x]", "the id of a token"),
        ({"logit_bias": {"99999999999": 1}}, "logit_bias[99999999999]", "id"),
        ({"logit_bias": {"5": 101}}, "logit_bias[5]", "at most 100"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "0 to 20"),
        ({"top_logprobs": 2}, "top_logprobs", "set logprobs to true"),
        ({"priority": 101}, "priority", "-100 to 100"),
        ({"cache_salt": "s" * 257}, "cache_salt", "at most 256"),
        ({"fallback": "hope"}, "fallback", "must be one of"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "at least 1"),
        ({"truncate_prompt_tokens": -1}, "truncate_prompt_tokens", "leave it out"),
        ({"messages": []}, "messages", "at least one message"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "list of objects"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]", "type text"),
        ({"messages": [5]}, "messages[0]", "expected object"),
        ({"messages": None}, "messages", "expected array"),
        ({"tool_choice": "perhaps"}, "tool_choice", "must be one of auto, none, required"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "must be like"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "must be one of"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "is required"),
        ({"response_format": {}}, "response_format.type", "is required"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "guided_regex and guided_choice"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least one"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "front.chat_template"),
        ({"request_id": "x" * 257}, "request_id", "at most 256"),
        ({"stream_options": 5}, "stream_options", "expected object"),
    ],
)
async def test_bad_fields(caller: Caller, fields: dict[str, Any], param: str, said: str) -> None:
    status, error = await caller.refused(CHAT, **({"messages": HELLO} | fields))
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert error["param"] == param, error
    assert error["message"].startswith(f"{param}: "), error
    assert said in error["message"], error


async def test_the_words_are_those_of_grpc(caller: Caller, world: World) -> None:
    _, error = await caller.refused("/v1/completions", prompt="hello", temperature=-3)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        request = pb.GenerateRequest(prompt="hello", sampling=pb.Sampling(temperature=-3))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in InferenceStub(channel).Generate(request):
                pass
    assert f"sampling.{error['message']}" == refused.value.details()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": "\\ud800"}', b"\xff\xfe", b"null", b"[" * 5000])
async def test_what_is_no_object(caller: Caller, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    async with caller.session.post(CHAT, data=body, headers=headers) as response:
        error = error_in(await response.json())
        assert (response.status, error["code"]) == (400, "invalid_argument")


async def test_objects_that_nest_too_deep(caller: Caller) -> None:
    for levels in range(100, 1300, 40):
        body = b'{"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": ' + b'{"a":' * levels
        body += b"1" + b"}" * levels + b', "max_tokens": 1}'
        async with caller.session.post(CHAT, data=body, headers={"Content-Type": "application/json"}) as response:
            assert response.status in (200, 400), await response.text()


async def test_json_only(caller: Caller) -> None:
    async with caller.session.post(CHAT, data=b"{}", headers={"Content-Type": "text/plain"}) as response:
        assert response.status == 400
        assert error_in(await response.json())["param"] == "Content-Type"


async def test_paths_methods_and_models_that_are_not_there(caller: Caller) -> None:
    async with caller.session.get("/v1/nothing") as response:
        assert (response.status, error_in(await response.json())["code"]) == (404, "not_found")
    async with caller.session.get(CHAT) as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert "only POST" in error_in(await response.json())["message"]
    for path in (CHAT, "/v1/completions", "/tokenize", "/detokenize"):
        body = {"messages": HELLO} if path == CHAT else {"tokens": [1]} if path == "/detokenize" else {"prompt": "a"}
        status, error = await caller.refused(path, model="gpt-4o", **body)
        assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    async with caller.session.get("/v1/models/org/other") as response:
        assert response.status == 404


async def test_requests_that_are_too_large(world: World) -> None:
    await world.router()
    client = await world.front(http_port=0, max_request_bytes=4000)
    await client.wait_ready(10)
    async with Caller(world.server.http_port) as caller:
        status, error = await caller.refused(CHAT, messages=[{"role": "user", "content": "x" * 5000}])
        assert status == 413
        assert "front.max_request_bytes is 4000" in error["message"]

        async def pieces() -> Any:
            for _ in range(6):
                yield b" " * 1000

        async with caller.session.post(CHAT, data=pieces(), headers={"Content-Type": "application/json"}) as response:
            assert response.status == 413
            assert "front.max_request_bytes" in error_in(await response.json())["message"]


async def test_bodies_may_be_larger_than_the_pages(caller: Caller) -> None:
    status, error = await caller.refused("/v1/completions", prompt="x" * (3 << 20))
    assert (status, error["param"]) == (400, "prompt")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("RESOURCE_EXHAUSTED", 429, "rate_limit_error"),
        ("UNAVAILABLE", 503, "server_error"),
        ("INTERNAL", 500, "server_error"),
        ("DEADLINE_EXCEEDED", 504, "server_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failures_before_the_first_token(world: World, code: str, status: int, kind: str, stream: bool) -> None:
    _, caller = await call(world, script=refuse(code, "it is so"))
    async with caller, caller.session.post(CHAT, json={"messages": HELLO, "stream": stream}) as response:
        error = error_in(await response.json())
        assert (response.status, error["type"], error["code"]) == (status, kind, code.lower())
        assert "it is so" in error["message"]
        assert ("Retry-After" in response.headers) == (status in (429, 503))


def fails_later(submit: Submit) -> Iterator[StreamOutput]:
    outputs = echo(submit)
    yield next(outputs)
    yield StreamOutput(submit.stream, [], failure=StreamFailure("INTERNAL", "a bug"))


async def test_a_failure_after_the_first_token_is_the_last_event(world: World) -> None:
    _, caller = await call(world, script=fails_later)
    async with caller:
        *chunks, last = await caller.stream(CHAT, messages=HELLO)
        assert all("choices" in chunk for chunk in chunks)
        assert error_in(last) == {"message": "a bug", "type": "server_error", "param": None, "code": "internal"}
        status, error = await caller.refused(CHAT, messages=HELLO)
        assert (status, error["message"]) == (500, "a bug")
        *chunks, last = await caller.stream("/v1/completions", prompt=["hello", "world"])
        assert error_in(last)["message"] == "a bug"


async def test_a_fault_of_ours_is_logged(caller: Caller, world: World, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    world.server.inference.limits = broken  # type: ignore[method-assign,assignment]
    status, error = await caller.refused(CHAT, messages=HELLO)
    assert (status, error["code"]) == (500, "internal")
    assert "a bug" in caplog.text


async def test_a_fault_of_ours_amid_a_stream(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: ChatStream) -> bytes:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ChatStream, "end", broken)
    *_, last = await caller.stream(CHAT, messages=HELLO, max_tokens=2)
    assert error_in(last)["code"] == "internal"
    assert "a stream of the OpenAI API failed" in caplog.text


async def test_a_drain_ends_streams_with_an_error(world: World) -> None:
    router, caller = await call(world, stall_after_steps=1)
    async with caller:
        body = {"messages": HELLO, "stream": True, "max_tokens": 20}
        async with caller.session.post(CHAT, json=body) as response:
            await response.content.readuntil(b"\n\n")
            await until(lambda: router.steps == 1)
            drain = asyncio.create_task(world.server.admission.drain(0.0))
            last = events_in(await response.read())[-1]
            assert (error_in(last)["code"], "shut down" in last["error"]["message"]) == ("unavailable", True)
            await drain
        status, error = await caller.refused(CHAT, messages=HELLO)
        assert (status, error["message"]) == (503, "the server is draining")


async def test_a_drain_ends_a_reply_with_503(world: World) -> None:
    router, caller = await call(world, stall_after_steps=1)
    async with caller:
        task = asyncio.create_task(caller.refused(CHAT, messages=HELLO, max_tokens=20))
        await until(lambda: router.steps == 1)
        await world.server.admission.drain(0.0)
        assert (await task)[0] == 503


async def test_the_servers_limit(world: World) -> None:
    router = await world.router(stall_after_steps=0)
    client = await world.front(http_port=0, max_concurrent_streams=1)
    await client.wait_ready(10)
    async with Caller(world.server.http_port) as caller:
        first = asyncio.create_task(caller.refused(CHAT, messages=HELLO))
        await until(lambda: bool(router.submits))
        status, error = await caller.refused(CHAT, messages=HELLO)
        assert (status, error["type"]) == (429, "rate_limit_error")
        assert "1 streams, its limit" in error["message"]
        status, _ = await caller.refused("/v1/completions", prompt=["a", "b"])
        assert status == 429
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await until(lambda: world.server.streams == 0)


async def test_unknown_fields_are_named_once(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        await caller.chat(max_tokens=1, verbosity_of_this_test="high", thinking=None)
    lines = [record.getMessage() for record in caplog.records if "verbosity_of_this_test" in record.getMessage()]
    assert lines == [f"the field 'verbosity_of_this_test' of {CHAT} is not known here and ignored"]


def test_names_of_strangers_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    unknown = UnknownFields()
    for start in range(0, 1000, 10):
        raw = json.dumps({f"field{start + place}\n" + "x" * 100: 1 for place in range(10)}).encode()
        unknown.note(raw, frozenset(), "/v1/completions")
    assert len(caplog.records) == 256
    assert all("\n" not in record.getMessage() and len(record.getMessage()) < 150 for record in caplog.records)


def test_errors_keep_their_fields() -> None:
    assert unavailable("gone").field == ""
