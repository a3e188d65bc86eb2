"""One request followed by its id: from its client's metadata through the logs of all processes and the trace."""

import json
from collections.abc import Iterator
from typing import Any

import grpc.aio
import pytest
import yaml

from router_service.protocol import inference_pb2 as pb
from router_service.protocol.inference_pb2_grpc import InferenceStub
from tests.e2e.server import Server, serving
from tests.e2e.shared_ray import SharedRay
from tests.support.mesh import until
from tests.support.otlp import Collector, attributes, collecting
from tests.support.tiny import write_checkpoint

pytestmark = [pytest.mark.e2e, pytest.mark.ray]

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
REQUEST_ID = "a client's own id"
PROMPT = "a very private sentence"
TOKENS = 12


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(collector: Collector, shared_ray: SharedRay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("traced")
    write_checkpoint(path, "mixtral")
    config = path / "cluster.yaml"
    settings = {
        # Every call is a slow one.
        "logging": {"format": "json", "slow_call_seconds": 1e-6, "level": "info"},
        "tracing": {"endpoint": collector.endpoint, "service_name": "tested"},
    }
    config.write_text(yaml.safe_dump(settings))
    arguments = (str(path), "--shards", "2", "--config", str(config), *shared_ray.joined_as("traced"))
    with serving(*arguments, log=path / "log") as server:
        yield server


def lines_of(ray: SharedRay) -> list[dict[str, Any]]:
    """What the cluster's processes have logged, from where Ray keeps their standard error."""
    pids = ray.descendants()
    mine = [path for path in ray.logs().glob("worker-*.err") if int(path.stem.rpartition("-")[2]) in pids]
    lines = [line for path in mine for line in path.read_text().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]  # one may be half there


async def generate(target: str) -> list[pb.GenerateResponse]:
    metadata = (("x-request-id", REQUEST_ID), ("traceparent", f"00-{TRACE}-{CALLER}-01"))
    sampling = pb.Sampling(max_tokens=TOKENS, temperature=0.0, seed=5, ignore_eos=True)
    async with grpc.aio.insecure_channel(target) as channel:
        call = InferenceStub(channel).Generate(
            pb.GenerateRequest(prompt=PROMPT, sampling=sampling), metadata=metadata, timeout=60
        )
        return [response async for response in call]


async def test_a_request_is_found_by_its_id_in_every_log_and_in_the_trace(
    server: Server, shared_ray: SharedRay, collector: Collector
) -> None:
    responses = await generate(server.target)
    usage = responses[-1].usage
    assert usage.generated_tokens == TOKENS
    assert {response.request_id for response in responses} == {REQUEST_ID}
    check_logs(shared_ray, usage)
    until(lambda: len(collector.spans) >= 4, "the trace has come")
    check_trace(server, collector, usage)


def check_logs(ray: SharedRay, usage: pb.Usage) -> None:
    def mine(role: str) -> list[dict[str, Any]]:
        return [line for line in lines_of(ray) if line["role"] == role and line.get("request_id") == REQUEST_ID]

    for role in ("front", "router"):
        until(lambda role=role: len(mine(role)) >= 2, f"the {role} has logged the request's begin and end")  # type: ignore[misc]
        assert [line["message"] for line in mine(role)] == ["request accepted", "request finished"]
        last = mine(role)[-1]
        assert (last["prompt_tokens"], last["tokens"]) == (usage.prompt_tokens, TOKENS)
        assert last["finish"] == "length"
        assert last["replica"]
    assert mine("front")[0]["trace_id"] == TRACE
    routers = [line for line in lines_of(ray) if line["role"] == "router"]
    steps = {line["step"] for line in routers if REQUEST_ID in line.get("request_ids", [])}
    assert len(steps) == TOKENS

    def slow(shard: str) -> set[int]:
        found = [line for line in lines_of(ray) if (line["role"], line["message"]) == (shard, "slow call")]
        return {line["step"] for line in found}

    for shard in ("shard 0", "shard 1"):
        until(lambda shard=shard: bool(slow(shard) & steps), f"{shard} has logged a slow call")  # type: ignore[misc]
    assert PROMPT not in "".join(map(str, lines_of(ray)))


def check_trace(server: Server, collector: Collector, usage: pb.Usage) -> None:
    (root,) = [span for span in collector.spans if span.parent_span_id.hex() == CALLER]
    children = collector.children(root)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert root.name.startswith("text_completion ")
    assert set(children) == {"queue", "prefill", "decode"}
    host, _, port = server.target.partition(":")
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": root.name.partition(" ")[2],
        "gen_ai.request.max_tokens": TOKENS,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.seed": 5,
        "gen_ai.response.id": REQUEST_ID,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": TOKENS,
        "server.address": host,
        "server.port": int(port),
    }
    assert expected.items() <= attributes(root.attributes).items()
    assert {"service.name": "tested"} in collector.resources
    queue, prefill, decode = (children[name] for name in ("queue", "prefill", "decode"))
    assert root.start_time_unix_nano <= queue.start_time_unix_nano
    assert queue.end_time_unix_nano == prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano
    assert decode.end_time_unix_nano <= root.end_time_unix_nano
    seconds = (decode.end_time_unix_nano - decode.start_time_unix_nano) / 1e9
    assert seconds == pytest.approx(usage.decode_seconds, abs=1e-3)
    assert 1 <= len(decode.events) <= 1 + seconds  # one a second
    for event in decode.events:
        values = attributes(event.attributes)
        assert 0 < values["expertmesh.step.exposed_seconds"] < values["expertmesh.step.seconds"] < seconds
        assert values["expertmesh.step.tokens"] == 1
        assert values["expertmesh.step.slowest_shard"] in (0, 1)
