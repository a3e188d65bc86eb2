"""The whole cluster over gRPC: transformers' tokens, streams side by side, what it says of itself."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router_service.client.client import Client
from router_service.protocol import cluster_pb2
from router_service.protocol import inference_pb2 as pb
from tests.e2e.answers import Served, collect, tokens_of
from tests.e2e.parity import PROMPTS, TOKENS, ask_all, check
from tests.e2e.server import environment
from tests.support import oracle
from tests.support.tiny import greedy, random_prompts

# Routers report once a second, and once a second they ask the shards: more often it is late on a busy machine.
REPORTED_SECONDS = 60.0
ROUNDS = 4

pytestmark = [pytest.mark.e2e, pytest.mark.ray]


async def test_greedy_tokens_logits_and_experts_equal_transformers(served: Served) -> None:
    expected = oracle.greedy(served.oracle, PROMPTS, TOKENS)
    async with Client(served.server.target) as client:
        answers = await ask_all(client)
    check(answers, expected)
    for answer in answers:
        reasons = [response.finish_reason for response in answer]
        assert reasons == [pb.FINISH_REASON_UNSPECIFIED] * (len(answer) - 1) + [pb.LENGTH]


async def test_64_mixed_streams_equal_the_run_alone(served: Served) -> None:
    prompts = random_prompts(64, seed=2)
    requests = [_mixed(index, prompt) for index, prompt in enumerate(prompts)]
    async with Client(served.server.target) as client:
        alone = {}
        for index in range(0, 64, 9):
            alone[index] = await collect(client, **requests[index])
        together = await asyncio.gather(*(_maybe_cancel(client, i, r) for i, r in enumerate(requests)))
        await _all_free(client)
    for index, answer in enumerate(together):
        if index % 5 == 4:
            continue
        assert sum(r.finish_reason != pb.FINISH_REASON_UNSPECIFIED for r in answer) == 1
        assert answer[-1].finish_reason != pb.FINISH_REASON_UNSPECIFIED
        if index in alone:
            assert tokens_of(answer) == tokens_of(alone[index])


def _mixed(index: int, prompt: list[int]) -> dict[str, object]:
    request: dict[str, object] = {"tokens": prompt, "max_tokens": 5 + index % 40, "seed": index}
    if index % 3 == 0:
        request["temperature"] = 0.0
    if index % 7 == 0:
        request["stop"] = ["e", "a"]
    return request


async def _maybe_cancel(client: Client, index: int, request: dict[str, object]) -> list[pb.GenerateResponse]:
    if index % 5 != 4:
        return await collect(client, **request)
    stream = client.generate(timeout=200, **request)  # type: ignore[arg-type]
    first = [await anext(stream)]
    await stream.aclose()
    return first


async def _all_free(client: Client) -> None:
    """Cancelled or done, everyone has given its blocks back; the routers report once a second."""
    async with asyncio.timeout(REPORTED_SECONDS):
        while True:
            state = await client.cluster()
            if all(not r.running and not r.waiting and not r.kv_blocks_used for r in state.routers):
                return
            await asyncio.sleep(0.2)


async def _all_ready(client: Client) -> cluster_pb2.ClusterState:
    async with asyncio.timeout(REPORTED_SECONDS):
        while True:
            state = await client.cluster()
            if [shard.state for shard in state.shards] == ["ready", "ready"]:
                return state
            await asyncio.sleep(0.2)


async def test_routing_is_returned(served: Served) -> None:
    async with Client(served.server.target) as client:
        answer = await collect(client, tokens=[5, 6, 7], max_tokens=3, temperature=0.0, return_routing=True)
    positions = [routing for response in answer for routing in response.routing]
    assert len(positions) == 3 + 2
    config = served.oracle.config
    sparse = [n for n in range(config.num_hidden_layers) if n not in (getattr(config, "mlp_only_layers", None) or [])]
    for position in positions:
        assert [layer.layer for layer in position.layers] == sparse
        for layer in position.layers:
            assert len(set(layer.experts)) == len(layer.weights) == config.num_experts_per_tok
            assert sum(layer.weights) == pytest.approx(1.0, abs=1e-5)
            assert set(layer.shards) <= {0, 1}


async def test_cluster_state_and_model(served: Served) -> None:
    config = served.oracle.config
    async with Client(served.server.target) as client:
        state, model = await _all_ready(client), await client.model()
    assert len({shard.pid for shard in state.shards}) == 2
    experts = config.num_experts if hasattr(config, "num_experts") else config.num_local_experts
    layers = config.num_hidden_layers - len(getattr(config, "mlp_only_layers", None) or [])
    assert sum(shard.experts for shard in state.shards) == experts * layers
    expert_bytes = sum(p.numel() for n, p in served.oracle.named_parameters() if ".experts." in n) * 4
    assert sum(shard.weights_bytes for shard in state.shards) == expert_bytes
    assert model.total_parameters == sum(p.numel() for p in served.oracle.parameters())


async def test_metrics_tell_what_was_done(served: Served) -> None:
    config = served.oracle.config
    sparse = config.num_hidden_layers - len(getattr(config, "mlp_only_layers", None) or [])
    # 4 prompt tokens and 7 of the 8 drawn ones go through each sparse layer; the last one is never fed back.
    pairs = (4 + 7) * sparse * config.num_experts_per_tok
    for _ in range(ROUNDS):
        if (grown := await growth(served, pairs)) == (4, 8, 1, pairs, pairs):
            break  # else a late report of what was done before may have been in it; the next round has none
    assert grown == (4, 8, 1, pairs, pairs)
    after = scrape(served.server.metrics)
    assert 0 < total(after, "expertmesh_alltoall_overhead_ratio") < 1
    assert total(after, "expertmesh_shard_up") == 2
    assert total(after, "expertmesh_router_ready") == 1
    weights = {dict(labels)["kind"] for name, labels in after if name == "expertmesh_weights_bytes"}
    assert weights == {"dense", "shared_expert", "expert"}


async def growth(served: Served, pairs: int) -> tuple[float, ...]:
    """What one request adds to the totals, once as many pairs as it should make are reported."""
    before = totals(served)
    async with Client(served.server.target) as client:
        await collect(client, tokens=[1, 2, 3, 4], max_tokens=8, temperature=0.0)
    deadline = time.monotonic() + REPORTED_SECONDS
    while True:
        await asyncio.sleep(1.5)  # what is counted too often would show, too
        grown = tuple(after - known for after, known in zip(totals(served), before, strict=True))
        if min(grown[-2:]) >= pairs or time.monotonic() > deadline:
            return grown


def totals(served: Served) -> list[float]:
    names = ("prompt_tokens", "generation_tokens", "request_success", "alltoall_assignments", "shard_tokens")
    samples = scrape(served.server.metrics)
    return [
        sum(value for (known, _), value in samples.items() if known == f"expertmesh_{name}_total") for name in names
    ]


def test_discovery_lists_the_page(served: Served) -> None:
    page = served.server.metrics
    with urllib.request.urlopen(page.removesuffix("/metrics") + "/sd", timeout=60) as response:
        groups = json.load(response)
    assert [f"http://{target}/metrics" for group in groups for target in group["targets"]] == [page]


def scrape(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    with urllib.request.urlopen(url, timeout=60) as response:
        text = response.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str) -> float:
    values = [value for (known, _), value in samples.items() if known == name]
    assert values, f"no series {name}"
    return sum(values)


def test_commands(served: Served) -> None:
    target = ("--target", served.server.target)
    options = ("--max-tokens", "5", "--temperature", "0", "--json")
    answer = json.loads(command("generate", *target, *options, "hello"))
    assert answer["token_ids"] == greedy(served.oracle, [*_byte_tokens(served, "hello")], 5)
    assert answer["usage"]["generated_tokens"] == 5
    flags = ("--requests", "6", "--concurrency", "3", "--input-tokens", "4:9", "--output-tokens", "5")
    load = command("bench", *target, *flags)
    assert "6 completed, 0 failed" in load
    assert ["output", "tokens", "30"] in [line.split() for line in load.splitlines()]
    table = command("status", *target)
    assert "shard" in table
    assert table.count("ready") == 2


def _byte_tokens(served: Served, text: str) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(served.checkpoint / "tokenizer.json")).encode(text).ids)


def command(*args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli.main", *args], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
