"""The metrics page: it parses, holds each family once, and says what happened."""

import asyncio
import json
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator

import aiohttp
import grpc
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from router_service.front.api import answering
from router_service.front.routing.stream_queue import Arrival, StreamQueue
from router_service.front.telemetry import metrics_server
from router_service.front.telemetry.exposition import MergedCollector
from router_service.protocol.messages import MetricFamily, RouterReport, Sample, StreamOutput, Submit, Timings
from tests.unit.front.calls import collect
from tests.unit.front.front_fakes import WAIT_S, echo, refuse, report, until
from tests.unit.front.front_world import World


@pytest.fixture
def world(world: World) -> World:
    world.metrics_port = 0
    return world


Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def fetch(world: World) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{world.server.metrics_port}/metrics") as answer:
        return str(answer.read().decode())


async def scrape(world: World) -> Series:
    text = await asyncio.to_thread(fetch, world)
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert len(names) == len(set(names))
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    series = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
    assert len(series) == len(samples)
    assert all(name.startswith("expertmesh_") and dict(labels)["model"] == "tiny" for name, labels in series)
    return series


def value(series: Series, name: str, **labels: str) -> float:
    return series[f"expertmesh_{name}", tuple(sorted({"model": "tiny", **labels}.items()))]


def seen_arrivals(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[float]]:
    """When each stream's tokens reach the Front: how far apart they are sent is no measure on a busy machine."""
    put, seen = StreamQueue.put, defaultdict[int, list[float]](list)

    def noted(queue: StreamQueue, arrival: Arrival) -> None:
        seen[queue.stream] += [arrival.at] * len(arrival.output.token_ids)
        put(queue, arrival)

    monkeypatch.setattr(StreamQueue, "put", noted)
    return seen


async def test_requests_are_counted_and_timed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    router, client = await world.serve(step_s=0.02)
    arrivals = seen_arrivals(monkeypatch)
    prompt = len(await client.tokenize("hello world"))
    begun = asyncio.get_running_loop().time()
    await collect(client, "hello world", max_tokens=6)
    await collect(client, tokens=[9, 10, 2], max_tokens=6)
    stopped = await collect(client, "hello END. fox", max_tokens=90, stop=["END."])
    taken = asyncio.get_running_loop().time() - begun
    stop_tokens = stopped[-1].usage.generated_tokens
    router.script = refuse("UNAVAILABLE", "shard 0 is gone")
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(client, "hello")
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(client, "hello", top_p=2.0)
    series = await scrape(world)
    assert value(series, "request_success_total", finished_reason="length") == 1
    assert value(series, "request_success_total", finished_reason="stop") == 2
    assert value(series, "request_success_total", finished_reason="cancelled") == 0
    assert value(series, "request_failures_total", code="UNAVAILABLE") == 1
    assert value(series, "request_failures_total", code="INVALID_ARGUMENT") == 1
    generated = 6 + 3 + stop_tokens
    assert value(series, "generation_tokens_total") == generated
    assert value(series, "prompt_tokens_total") == prompt + 3 + stopped[-1].usage.prompt_tokens
    assert value(series, "time_to_first_token_seconds_count") == 3
    assert value(series, "inter_token_latency_seconds_count") == generated - 3
    streams = zip(arrivals.values(), (6, 3, stop_tokens))  # one that was stopped may get more than belong to it
    between = sum(times[count - 1] - times[0] for times, count in streams)
    assert value(series, "inter_token_latency_seconds_sum") == pytest.approx(between)
    assert value(series, "e2e_request_latency_seconds_count") == 3
    assert between < value(series, "e2e_request_latency_seconds_sum") < taken
    assert value(series, "request_queue_time_seconds_sum") == pytest.approx(3 * 0.25)
    assert value(series, "request_prefill_time_seconds_sum") == pytest.approx(3 * 0.5)
    assert value(series, "request_decode_time_seconds_count") == 3
    buckets = [dict(labels)["le"] for name, labels in series if name == "expertmesh_time_to_first_token_seconds_bucket"]
    assert len(buckets) == 23


async def test_cancels_and_deadlines_are_failures_with_their_code(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "ON_THE_WAY_S", 5.0)  # as long as the call may last: its way here may take as long
    router, client = await world.serve(stall_after_steps=1)
    with pytest.raises(grpc.aio.AioRpcError):
        await collect(client, "hello", timeout=5.0)
    stream = client.generate("hello", timeout=10 * WAIT_S)
    task = asyncio.create_task(anext(stream))  # type: ignore[arg-type]
    await until(lambda: len(router.submits) == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: len(router.cancels) == 2)
    series = await scrape(world)
    assert value(series, "request_failures_total", code="CANCELLED") == 1
    assert value(series, "request_failures_total", code="DEADLINE_EXCEEDED") == 1


def steps(router: str, count: float, name: str = "expertmesh_steps_total") -> MetricFamily:
    labels = {"model": "tiny", "router": router}
    return MetricFamily(name, "Steps", "counter", [Sample("expertmesh_steps_total", labels, count)])


async def test_the_routers_families_are_merged_and_leave_with_them(world: World) -> None:
    first, _ = await world.serve()
    second = await world.router(name="r1")
    await until(lambda: world.server.linked_routers == 2)
    first.say(report("r0", metric_families=[steps("r0", 5)]))
    second.say(report("r1", metric_families=[steps("r1", 7, "expertmesh_steps")]))
    await until(lambda: len(world.server.router_pool.reports) == 2)
    series = await scrape(world)
    assert value(series, "steps_total", router="r0") == 5
    assert value(series, "steps_total", router="r1") == 7
    world.endpoints.clear()
    first.cut()
    await until(lambda: world.server.linked_routers == 1)
    series = await scrape(world)
    assert ("expertmesh_steps_total", (("model", "tiny"), ("router", "r0"))) not in series
    assert value(series, "steps_total", router="r1") == 7


def merged(*reports: RouterReport, registry: CollectorRegistry | None = None) -> list[Metric]:
    return list(MergedCollector(registry or CollectorRegistry(), lambda: list(reports)).collect())


def test_a_family_of_both_the_front_and_a_router_comes_once() -> None:
    registry = CollectorRegistry()
    Counter("expertmesh_steps_total", "Steps", ["model"], registry=registry).labels("tiny").inc(2)
    metrics = merged(report(metric_families=[steps("r0", 5)]), registry=registry)
    assert [metric.name for metric in metrics] == ["expertmesh_steps"]
    assert [sample.value for sample in metrics[0].samples] == [2, 5]


def test_what_contradicts_is_left_out() -> None:
    gauge = MetricFamily("expertmesh_steps", "Steps", "gauge", [Sample("expertmesh_steps", {}, 1.0)])
    metrics = merged(report(metric_families=[steps("r0", 5), gauge]))
    assert [(metric.type, [sample.value for sample in metric.samples]) for metric in metrics] == [("counter", [5])]


@pytest.mark.parametrize("counts", [(5, 6, 4), (6, 5, 4), (4, 5, 6)])
def test_of_one_shards_counter_the_furthest_is_taken(counts: tuple[int, ...]) -> None:
    """Several routers pass it on, each as it was when it last asked."""
    metrics = merged(*(report(f"r{n}", metric_families=[steps("-", count)]) for n, count in enumerate(counts)))
    assert [sample.value for sample in metrics[0].samples] == [6]


def test_a_report_calls_them_families_on_the_wire() -> None:
    assert json.loads(msgspec.json.encode(report(metric_families=[steps("r0", 5)])))["families"]


def test_a_gauge_that_repeats_comes_once() -> None:
    gauges = [MetricFamily("expertmesh_size", "Size", "gauge", [Sample("expertmesh_size", {}, n)]) for n in (1, 2)]
    metrics = merged(*(report(metric_families=[gauge]) for gauge in gauges))
    assert [sample.value for sample in metrics[0].samples] == [1]


async def test_the_page_stops_with_the_server(world: World) -> None:
    await world.serve()
    await world.server.stop()
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(fetch, world)


def get(world: World, path: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(f"http://127.0.0.1:{world.server.metrics_port}{path}") as answer:
        return answer.headers["Content-Type"], answer.read()


async def test_discovery_lists_the_pages_of_all_fronts(world: World) -> None:
    world.targets = lambda: ["10.0.0.2:9090", "10.0.0.1:9090"]
    await world.front()
    kind, body = await asyncio.to_thread(get, world, "/sd")
    assert kind == "application/json"
    groups = [{"targets": ["10.0.0.1:9090", "10.0.0.2:9090"], "labels": {"__meta_expertmesh_model": "tiny"}}]
    assert json.loads(body) == groups


async def test_a_front_on_its_own_lists_itself(world: World) -> None:
    await world.front()
    _, body = await asyncio.to_thread(get, world, "/sd")
    assert json.loads(body)[0]["targets"] == [f"127.0.0.1:{world.server.metrics_port}"]


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/favicon.ico"])
async def test_another_path_is_a_404_that_names_all(world: World, path: str) -> None:
    await world.front()
    with pytest.raises(urllib.error.HTTPError) as failure:
        await asyncio.to_thread(get, world, path)
    with failure.value as answer:
        assert answer.status == 404
        assert answer.read() == b"only /metrics, /sd and /healthz are served here\n"


async def test_what_comes_later_needs_no_new_target(world: World) -> None:
    """A router and a shard that join after the first scrape are on the same page, which is still the only target."""
    world.expected_routers = 2
    await world.serve()
    before, (_, listed) = await scrape(world), await asyncio.to_thread(get, world, "/sd")
    assert not any(("router", "r1") in labels for _, labels in before)
    assert value(before, "routers_linked") == 1
    assert value(before, "routers_configured") == 2
    second = await world.router(name="r1")
    await until(lambda: world.server.linked_routers == 2)
    second.say(report("r1", metric_families=[up("r1", "0"), up("r1", "1")]))
    await until(lambda: len(world.server.router_pool.reports) == 1)
    after = await scrape(world)
    assert [value(after, "shard_up", router="r1", shard=shard, replica="a") for shard in "01"] == [1, 1]
    assert value(after, "routers_linked") == value(after, "routers_configured") == 2
    assert await asyncio.to_thread(get, world, "/sd") == ("application/json", listed)


def up(router: str, shard: str) -> MetricFamily:
    labels = {"model": "tiny", "router": router, "shard": shard, "replica": "a"}
    return MetricFamily("expertmesh_shard_up", "Up", "gauge", [Sample("expertmesh_shard_up", labels, 1)])


Script = Callable[[Submit], Iterator[StreamOutput]]
STEP_S = 0.08


def timed(times: list[float]) -> Script:
    """Answers like `echo`; `times` gets the moments of the request's coming and of each token's going."""
    now = asyncio.get_running_loop().time

    def outputs(submit: Submit) -> Iterator[StreamOutput]:
        for output in echo(submit):
            times.append(now())
            yield output

    def script(submit: Submit) -> Iterator[StreamOutput]:
        times.append(now())
        return outputs(submit)

    return script


async def test_latencies_are_those_of_the_answers(world: World) -> None:
    """Within 5%, in the least disturbed of several requests: to the first token, between tokens, from end to end."""
    times: list[float] = []
    _, client = await world.serve(step_s=STEP_S, script=timed(times))
    names = ("time_to_first_token", "inter_token_latency", "e2e_request_latency")
    errors: dict[str, list[float]] = {name: [] for name in names}
    before = await scrape(world)
    while len(errors[names[0]]) < 40 and not all(min(found, default=1.0) <= 0.05 for found in errors.values()):
        times.clear()
        await collect(client, "hello", max_tokens=4)
        after = await scrape(world)
        came, first, *_, last = times
        for name, known in zip(names, (first - came, last - first, last - came), strict=True):
            measured = value(after, f"{name}_seconds_sum") - value(before, f"{name}_seconds_sum")
            errors[name].append(abs(measured - known) / known)
        before = after
    assert {name: min(found) <= 0.05 for name, found in errors.items()} == dict.fromkeys(names, True), errors
    assert value(before, "inter_token_latency_seconds_count") == 3 * len(errors[names[0]])


async def test_the_routers_timings_are_passed_on_to_the_bucket(world: World) -> None:
    def script(submit: Submit) -> Iterator[StreamOutput]:
        yield StreamOutput(submit.stream, [5], finish="length", timings=Timings(0.003, 0.04, 0.7))

    _, client = await world.serve(script=script)
    for _ in range(3):
        await collect(client, "hello", max_tokens=1)
    series = await scrape(world)
    for name, seconds, below in (("queue", 0.003, "0.001"), ("prefill", 0.04, "0.01"), ("decode", 0.7, "0.5")):
        assert value(series, f"request_{name}_time_seconds_sum") == pytest.approx(3 * seconds)
        assert value(series, f"request_{name}_time_seconds_count") == 3
        assert value(series, f"request_{name}_time_seconds_bucket", le=below) == 0
    assert value(series, "request_queue_time_seconds_bucket", le="0.005") == 3
    assert value(series, "request_prefill_time_seconds_bucket", le="0.05") == 3
    assert value(series, "request_decode_time_seconds_bucket", le="0.8") == 3


async def test_a_page_that_takes_too_long_is_given_up_and_the_others_go_on() -> None:
    answer, asked = asyncio.Event(), asyncio.Event()

    async def never(_: web.Request) -> web.Response:
        asked.set()
        await answer.wait()
        return web.Response(text="late")

    app = web.Application()
    app.router.add_get("/slow", metrics_server.bounded(never, seconds=0.01))
    async with TestClient(TestServer(app)) as client, client.get("/slow") as response:
        assert asked.is_set()
        assert (response.status, await response.text()) == (503, "/slow was not ready within 0.01 s\n")


async def test_a_scrape_is_compressed_for_whom_it_may_be(world: World) -> None:
    await world.serve()
    url = f"http://127.0.0.1:{world.server.metrics_port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.headers["Content-Encoding"] in ("deflate", "gzip")
        assert "expertmesh_routers_configured" in await response.text()


async def test_the_fronts_own_threads_and_tasks_are_counted_beside_the_routers(world: World) -> None:
    """One family for all: a Front's series have the labels that a shard's have."""
    router, _ = await world.serve()
    labels = {"model": "tiny", "router": "r0", "shard": "router", "thread": "engine"}
    samples = [Sample("expertmesh_thread_failures_total", labels, 3.0)]
    router.say(report(metric_families=[MetricFamily("expertmesh_thread_failures", "Threads", "counter", samples)]))
    await until(lambda: any(told.metric_families for told in world.server.router_pool.reports))
    before = await scrape(world)
    assert value(before, "thread_failures_total", shard="router", router="r0", thread="engine") == 3
    for kind in ("router poller", "router link", "live hub"):
        assert value(before, "thread_failures_total", shard="front", thread=kind) == 0

    def broken() -> None:
        raise LookupError("out of luck")

    world.server.threads.start("announcer", broken).join(WAIT_S)
    world.no_directory = asyncio.CancelledError()
    await until(lambda: world.server.tasks.failures["router poller"] == 1)
    after = await scrape(world)
    assert value(after, "thread_failures_total", shard="front", thread="announcer") == 1
    assert value(after, "thread_failures_total", shard="front", thread="router poller") == 1
