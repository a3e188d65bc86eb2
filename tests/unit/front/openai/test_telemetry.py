"""One path behind two faces: request ids, log lines, spans and metrics are those of gRPC."""

import asyncio
import io
import json

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from router_service.front.telemetry import spans
from router_service.front.telemetry.tracing_config import TracingConfig
from tests.support.otlp import attributes, collecting
from tests.unit.front.front_fakes import WAIT_S, refuse
from tests.unit.front.front_world import World
from tests.unit.front.openai.caller import Caller, call

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


async def test_the_id_goes_in_and_out(caller: Caller, written: io.StringIO) -> None:
    for stream in (False, True):
        headers = {"X-Request-Id": "mine"}
        async with caller.session.post(CHAT, json=BODY | {"stream": stream}, headers=headers) as response:
            assert response.headers["X-Request-Id"] == "mine"
            assert "chatcmpl-mine" in await response.text()
    async with caller.session.post(CHAT, json=BODY) as response:
        drawn = response.headers["X-Request-Id"]
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    finished = [line["request_id"] for line in lines if line["message"] == "request finished"]
    assert finished == ["mine", "mine", drawn]


async def test_an_id_with_any_characters(caller: Caller) -> None:
    reply = await caller.post(CHAT, **BODY, request_id="mi\u00f1e\n1")
    assert reply["id"] == "chatcmpl-mi\u00f1e\n1"


async def test_an_id_that_is_no_text(caller: Caller) -> None:
    port = int(caller.url.rpartition(":")[2])
    for path, body in ((CHAT, BODY), (CHAT, {}), ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 1})):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(head.encode() + b"X-Request-Id: mi\xffe\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw)
        answer = await reader.read()
        assert b"\r\nX-Request-Id: mi?e\r\n" in answer
        assert answer.startswith(b"HTTP/1.1 200" if body else b"HTTP/1.1 400")
        writer.close()
        await writer.wait_closed()


async def test_a_refused_request_has_its_id(world: World) -> None:
    _, caller = await call(world, script=refuse("UNAVAILABLE", "no"))
    async with caller, caller.session.post(CHAT, json=BODY, headers={"X-Request-Id": "mine"}) as response:
        assert (response.status, response.headers["X-Request-Id"]) == (503, "mine")


async def test_one_whose_body_is_wrong_has_it_too(caller: Caller) -> None:
    async with caller.session.post(CHAT, json={}, headers={"X-Request-Id": "mine"}) as response:
        assert (response.status, response.headers["X-Request-Id"]) == (400, "mine")


async def test_a_span_is_a_child_of_the_callers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "LAST_FLUSH_SECONDS", WAIT_S)
    with collecting() as collector:
        world.tracing = TracingConfig(collector.endpoint, export_timeout_seconds=WAIT_S)
        _, caller = await call(world)
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        async with caller, caller.session.post(CHAT, json=BODY, headers=headers) as response:
            assert response.status == 200
        await world.server.stop()
        (root,) = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
        assert (root.name, root.trace_id.hex(), root.parent_span_id.hex()) == ("chat tiny", TRACE, PARENT)
        assert attributes(root.attributes)["gen_ai.usage.output_tokens"] == 3


async def test_metrics_count_both_faces(caller: Caller, world: World) -> None:
    await caller.chat(max_tokens=3)
    async with caller.session.get("/metrics") as response:
        text = await response.text()
        assert response.headers["Content-Type"].startswith("text/plain")
    (line,) = [line for line in text.splitlines() if line.startswith("expertmesh_generation_tokens_total")]
    assert line.endswith(" 3.0")
    assert world.server.streams == 0
