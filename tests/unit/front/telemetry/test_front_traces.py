"""Spans of requests, as a collector of OTLP gets them; and a collector that is away, which nobody notices."""

import asyncio
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, server_attributes

from experts.host.watched_thread import ThreadWatch
from router_service.front.telemetry import spans
from router_service.front.telemetry.spans import MAX_EVENTS
from router_service.front.telemetry.tracing import open_tracer
from router_service.front.telemetry.tracing_config import TracingConfig
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from router_service.protocol.messages import StepSummary, StreamOutput, Submit, Timings
from tests.support.otlp import Collector, attributes, collecting
from tests.unit.front.calls import collect
from tests.unit.front.front_fakes import WAIT_S, echo, refuse, until
from tests.unit.front.front_world import World

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Front that ends sends its last spans however long that takes."""
    monkeypatch.setattr(spans, "LAST_FLUSH_SECONDS", WAIT_S)


def config_of(collector: Collector, **more: Any) -> TracingConfig:
    return TracingConfig(collector.endpoint, export_timeout_seconds=WAIT_S, **more)


@pytest.fixture
async def traced(world: World, collector: Collector, patient: None) -> World:  # noqa: ARG001
    world.tracing = config_of(collector)
    await world.serve()
    return world


async def generate(world: World, *metadata: tuple[str, str], **request: Any) -> list[pb.GenerateResponse]:
    asked = {"prompt": "hello", "request_id": "mine", "sampling": pb.Sampling(max_tokens=3)} | request
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.server.grpc_port}") as channel:
        call = InferenceStub(channel).Generate(pb.GenerateRequest(**asked), metadata=metadata)
        return [response async for response in call]


async def trace_of(world: World, collector: Collector) -> tuple[Span, dict[str, Span]]:
    """The only request's spans, which a Front sends before it ends."""
    await world.server.stop()
    (root,) = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    return root, collector.children(root)


async def test_a_span_has_the_conventions_names_and_three_children(traced: World, collector: Collector) -> None:
    chat = pb.Chat(messages=[pb.Message(role="user", content="hi")])
    sampling = pb.Sampling(max_tokens=3, temperature=0.5, top_p=0.25, top_k=7, seed=9)
    request = pb.GenerateRequest(chat=chat, request_id="mine", sampling=sampling)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{traced.server.grpc_port}") as channel:
        responses = [response async for response in InferenceStub(channel).Generate(request)]
    root, children = await trace_of(traced, collector)
    assert (root.name, root.parent_span_id) == ("chat tiny", b"")
    assert attributes(root.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "expertmesh",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.25,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.seed": 9,
        "gen_ai.response.id": "mine",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": responses[-1].usage.prompt_tokens,
        "gen_ai.usage.output_tokens": 3,
        "server.address": "127.0.0.1",
        "server.port": traced.server.grpc_port,
    }
    assert list(children) == ["queue", "prefill", "decode"]
    assert {span.trace_id for span in children.values()} == {root.trace_id}


async def test_children_last_as_long_as_the_router_says(traced: World, collector: Collector) -> None:
    def slow(submit: Submit) -> Iterator[StreamOutput]:
        yield StreamOutput(submit.stream, [5], timings=Timings(0.01, 0.02, 0.0))
        yield StreamOutput(submit.stream, [5], finish="stop", timings=Timings(0.01, 0.02, 0.03))

    # Longer than all that it tells of, or the queue would have begun before the request.
    traced.routers[0].script, traced.routers[0].step_s = slow, 0.2
    await generate(traced)
    root, children = await trace_of(traced, collector)
    seconds = {name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 for name, span in children.items()}
    assert seconds == pytest.approx({"queue": 0.01, "prefill": 0.02, "decode": 0.03}, abs=1e-3)
    assert root.start_time_unix_nano <= children["queue"].start_time_unix_nano
    assert children["decode"].end_time_unix_nano <= root.end_time_unix_nano
    assert abs(time.time() - root.end_time_unix_nano / 1e9) < 60


def test_names_are_those_of_the_semantic_conventions() -> None:
    modules = (gen_ai_attributes, server_attributes, error_attributes)
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    used = set(re.findall(r'"((?:gen_ai|server|error)\.[a-z_.]+)"', Path(spans.__file__).read_text()))
    assert len(used) > 10
    assert used <= known


async def test_several_answers_have_one_span(traced: World, collector: Collector) -> None:
    """Its children are of the first answer: the others wait for that one's prompt. They decode until the last token."""

    def slow(submit: Submit) -> Iterator[StreamOutput]:
        yield StreamOutput(submit.stream, [5], timings=Timings(0.01 + submit.sampling.seed, 0.02, 0.0))
        yield StreamOutput(submit.stream, [5], finish="stop" if submit.sampling.seed else "length")

    traced.routers[0].script, traced.routers[0].step_s = slow, 0.1
    await generate(traced, n=3, sampling=pb.Sampling(max_tokens=2, seed=0))
    root, children = await trace_of(traced, collector)
    told = attributes(root.attributes)
    assert told["gen_ai.request.choice.count"] == 3
    assert told["gen_ai.response.finish_reasons"] == ["length", "stop", "stop"]
    assert told["gen_ai.usage.output_tokens"] == 6
    seconds = {name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9 for name, span in children.items()}
    assert (seconds["queue"], seconds["prefill"]) == pytest.approx((0.01, 0.02), abs=1e-3)
    assert seconds["decode"] > 0.1  # the others come a step later than the first, and have two of their own


async def test_a_trace_goes_on_below_its_caller(traced: World, collector: Collector) -> None:
    await generate(traced, ("traceparent", f"00-{TRACE}-{CALLER}-01"))
    root, _ = await trace_of(traced, collector)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, CALLER)
    assert root.name == "text_completion tiny"
    assert traced.routers[0].submits[0].traced


async def test_a_caller_that_samples_nothing_is_obeyed(traced: World, collector: Collector) -> None:
    await generate(traced, ("traceparent", f"00-{TRACE}-{CALLER}-00"))
    await traced.server.stop()
    assert collector.spans == []
    assert not traced.routers[0].submits[0].traced


@pytest.mark.parametrize("wrong", ["", "rubbish", "00-" + "0" * 32 + f"-{CALLER}-01"])
async def test_a_wrong_traceparent_is_none(traced: World, collector: Collector, wrong: str) -> None:
    await generate(traced, ("traceparent", wrong))
    root, _ = await trace_of(traced, collector)
    assert root.parent_span_id == b""


@pytest.mark.usefixtures("patient")
async def test_the_ratio_samples(world: World, collector: Collector) -> None:
    world.tracing = config_of(collector, sample_ratio=0.5)
    await world.serve()
    for _ in range(60):
        await generate(world)
    sampled = sum(submit.traced for submit in world.routers[0].submits)
    await world.server.stop()
    assert 10 < sampled < 50
    assert len(collector.named("text_completion tiny")) == sampled


async def test_a_failure_has_its_code_and_no_words_of_the_client(traced: World, collector: Collector) -> None:
    traced.routers[0].script = refuse("UNAVAILABLE", "shard 1 is away")
    with pytest.raises(grpc.aio.AioRpcError):
        await generate(traced)
    root, children = await trace_of(traced, collector)
    assert attributes(root.attributes)["error.type"] == "UNAVAILABLE"
    assert (root.status.code, root.status.message) == (Status.STATUS_CODE_ERROR, "")
    assert children == {}


async def test_a_client_that_leaves_ends_its_span(traced: World, collector: Collector) -> None:
    traced.routers[0].step_s = 0.01
    stream = traced.clients[0].generate("hello", max_tokens=1000)
    await anext(stream)
    await stream.aclose()
    await until(lambda: len(traced.routers[0].cancels) == 1)
    root, children = await trace_of(traced, collector)
    assert attributes(root.attributes)["error.type"] == "CANCELLED"
    assert attributes(root.attributes)["gen_ai.usage.output_tokens"] >= 1
    assert list(children) == ["queue", "prefill", "decode"]


async def test_summaries_of_steps_are_events_of_decode_and_bounded(traced: World, collector: Collector) -> None:
    def chatty(submit: Submit) -> Iterator[StreamOutput]:
        for number in range(100):
            summary = StepSummary(0.5, 0.25, 0.125, 1, number, 4)
            finish = "length" if number == 99 else None
            yield StreamOutput(submit.stream, [5], finish=finish, timings=Timings(0.0, 0.0, 0.1), summary=summary)

    traced.routers[0].script = chatty
    await generate(traced)
    _, children = await trace_of(traced, collector)
    events = children["decode"].events
    assert len(events) == MAX_EVENTS
    assert {event.name for event in events} == {"expertmesh.step"}
    assert [attributes(event.attributes)["expertmesh.step.rows"] for event in events] == list(range(MAX_EVENTS))
    assert attributes(events[0].attributes) == {
        "expertmesh.step.seconds": 0.5,
        "expertmesh.step.exposed_seconds": 0.25,
        "expertmesh.step.communication_share": 0.125,
        "expertmesh.step.slowest_shard": 1,
        "expertmesh.step.rows": 0,
        "expertmesh.step.tokens": 4,
    }


@pytest.mark.usefixtures("patient")
async def test_headers_come_from_the_environment(
    world: World, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc")
    world.tracing = config_of(collector)
    await world.serve()
    await generate(world)
    await world.server.stop()
    assert collector.headers[0]["authorization"] == "Bearer abc"


@pytest.mark.parametrize("way", ["nobody listens", "silent"])
async def test_a_dead_collector_neither_slows_nor_breaks_serving(world: World, way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        port = silent.getsockname()[1]
        if way != "silent":
            silent.close()
        # Whoever waited for the collector would wait far longer than a busy machine takes for all the rest.
        world.tracing = TracingConfig(f"http://127.0.0.1:{port}", queue_size=4, export_timeout_seconds=20 * WAIT_S)
        _, client = await world.serve(script=echo)
        requests = (collect(client, "hello", max_tokens=3) for _ in range(100))
        answers = await asyncio.wait_for(asyncio.gather(*requests), WAIT_S)
        assert all(answer[-1].finish_reason == pb.LENGTH for answer in answers)
        (processor,) = world.server._tracer._provider._active_span_processor._span_processors  # type: ignore[union-attr]
        assert len(processor._batch_processor._queue) <= 4  # type: ignore[attr-defined]
        await asyncio.wait_for(world.server.stop(), WAIT_S)


def test_a_fault_in_sending_the_last_spans_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: TracerProvider, timeout_millis: int = 0) -> bool:  # noqa: ARG001
        raise LookupError("out of luck")

    monkeypatch.setattr(TracerProvider, "force_flush", broken)
    threads = ThreadWatch()
    tracer = open_tracer(TracingConfig("http://127.0.0.1:1"), "m", threads)
    assert tracer is not None
    tracer.close()
    assert threads.failures == {"last spans": 1}
    assert "thread last spans has failed" in caplog.text


def test_nothing_is_imported_while_tracing_is_off() -> None:
    code = """if True:
        import sys
        import router_service.front.server
        from router_service.front.telemetry.tracing import open_tracer
        from router_service.front.telemetry.tracing_config import TracingConfig
        assert open_tracer(TracingConfig(), "m") is None
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
        sys.modules["opentelemetry"] = None
        try:
            open_tracer(TracingConfig("http://127.0.0.1:1"), "m")
        except ValueError as error:
            print(error)
    """
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "tracing.endpoint needs opentelemetry" in said
    assert "pip install 'expertmesh[tracing]'" in said


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"endpoint": "127.0.0.1:4317"}, "must be http://HOST:PORT"),
        ({"endpoint": "http://collector"}, "must be http://HOST:PORT"),
        ({"endpoint": "http://user:password@collector:4317"}, "must be http://HOST:PORT"),
        ({"endpoint": "http://collector:many"}, "must be http://HOST:PORT"),
        ({"sample_ratio": float("nan")}, "must be 0 to 1"),
        ({"service_name": ""}, "must not be empty"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TracingConfig(**wrong)
