"""What a whole router reports: shards that die and come back, strangers, the KV cache, weights by their kind."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace

import pytest

from cluster.config import ModelConfig
from cluster.planner.model import open_model
from experts.config import WeightsConfig
from experts.transport.channel import connect
from router_service.protocol.messages import Submit
from router_service.router.reporting.reporter import ModelSizes
from tests.support.mesh import CREDENTIALS, NODE, greedy, until
from tests.support.scrape import value
from tests.support.tiny import Tiny
from tests.unit.metrics.live_router import BLOCK, TOKENS, Live

Make = Callable[..., Tiny]


@pytest.fixture
def live(tiny: Make) -> Iterator[Live]:
    live = Live(tiny("mixtral"))
    yield live
    live.close()


def up(live: Live) -> list[float]:
    metrics = live.page()
    return [value(metrics, "shard_up", shard=str(shard), replica=f"r{shard}") for shard in (0, 1)]


def told(live: Live, name: str) -> list[float]:
    metrics = live.page()
    return [value(metrics, name, shard=shard) for shard in "01"]


@pytest.mark.parametrize("withdrawn", [True, False], ids=["withdrawn", "still listed"])
def test_a_shard_that_died_is_down_by_its_last_name_though_nobody_asks_it(live: Live, withdrawn: bool) -> None:
    until(lambda: up(live) == [1, 1], "both are up")
    assert value(live.page(), "router_ready") == 1
    assert value(live.page(), "shard_tokens_total", shard="1") == 0
    live.servers.stop(1)
    if withdrawn:
        live.listed = live.servers.endpoints()
    until(lambda: up(live) == [1, 0], "the loss is seen")
    assert value(live.page(), "router_ready") == 0
    # Its memory is free and its counters are gone with it.
    assert [s.labels["shard"] for s in live.page()["expertmesh_shard_tokens"].samples] == ["0"]
    live.servers.start(1)
    live.listed = live.servers.endpoints()
    until(lambda: up(live) == [1, 1], "it is back")
    assert told(live, "shard_restarts_total") == [0, 1]
    assert told(live, "dataplane_reconnects_total") == [0, 1]


def test_a_shard_that_no_list_names_but_that_answers_is_up(live: Live) -> None:
    until(lambda: up(live) == [1, 1], "both are up")
    live.listed = []
    asked = live.router.connector.connections[1].status
    until(lambda: live.router.connector.connections[1].status is not asked, "it was asked again")
    assert up(live) == [1, 1]


def test_a_connection_that_broke_is_a_reconnect_and_no_restart(live: Live) -> None:
    until(lambda: up(live) == [1, 1], "both are up")
    live.servers.running[1].hang_up()
    live.router.requests.submit(0, Submit(1, "a", list(range(40)), greedy(2)))
    until(lambda: told(live, "dataplane_reconnects_total")[1] == 1, "it is connected again")
    until(lambda: up(live) == [1, 1], "and up")
    assert told(live, "shard_restarts_total") == [0, 0]
    until(lambda: not live.router.engine.requests, "the request ends")


def test_every_restart_counts_once(live: Live) -> None:
    for restarts in (1, 2, 3):
        live.replace(0)
        until(lambda restarts=restarts: told(live, "shard_restarts_total") == [restarts, 0], "counted")
    until(lambda: up(live) == [1, 1], "both are up")
    assert told(live, "shard_restarts_total") == [3, 0]


def test_strangers_at_the_routers_own_door_are_counted(live: Live) -> None:
    reasons = {"shard": "router", "router": "r0", "reason": "secret"}
    assert value(live.page(), "dataplane_rejected_connections_total", **reasons) == 0
    for _ in range(3):
        with (
            suppress(OSError),
            closing(connect(live.router.endpoint, NODE, replace(CREDENTIALS, secret=b"wrong"), 10.0)),
        ):
            pass
    counted = lambda: value(live.page(), "dataplane_rejected_connections_total", **reasons)  # noqa: E731
    until(lambda: counted() == 3, "three are counted")


@pytest.mark.parametrize(("prompt", "answer"), [(5, 30), (40, 9), (1, 1), (15, 1), (16, 1)])
def test_the_kv_cache_is_what_is_written(live: Live, prompt: int, answer: int) -> None:
    """While the shards' turns are held there are blocks for the prompt alone; then all is free again."""
    blocks, total = -(-prompt // BLOCK), TOKENS // BLOCK
    with live.servers.running[0].turn, live.servers.running[1].turn:
        live.router.requests.submit(0, Submit(1, "a", [7] * prompt, greedy(answer)))
        until(lambda: value(live.page(), "num_requests_running") == 1, "it runs")
        metrics = live.page()
    reserved = value(metrics, "kv_cache_bytes", kind="reserved")
    # 3 layers, keys and values of 2 heads of 8, in float32.
    assert reserved == TOKENS * 3 * 2 * 2 * 8 * 4
    assert value(metrics, "kv_cache_bytes", kind="used") == reserved * blocks / total
    assert value(metrics, "kv_cache_usage_perc") == blocks / total
    assert value(metrics, "num_requests_waiting") == 0
    until(lambda: value(live.page(), "kv_cache_usage_perc") == 0, "all is free")
    # The engine's thread frees blocks and forgets the request one after the other.
    until(lambda: value(live.page(), "num_requests_running") == 0, "none runs")


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "qwen2_moe"])
def test_weights_are_told_by_what_they_are(tiny: Make, family: str) -> None:
    made = tiny(family)
    served = open_model(ModelConfig(checkpoint=str(made.path), device="cpu"), WeightsConfig("dequantized"))
    shared_bytes = served.shared_expert_bytes
    live = Live(made, ModelSizes(1000, 400, served.router_bytes - shared_bytes, shared_bytes, 0.5))
    until(lambda: up(live) == [1, 1], "both are up")
    metrics = live.page()
    live.close()
    names = dict(made.oracle.named_parameters())
    shared = sum(p.numel() for n, p in names.items() if "shared_expert" in n)
    experts = sum(p.numel() for n, p in names.items() if ".experts." in n)
    buffers = sum(b.numel() for n, b in made.oracle.named_buffers() if n.endswith("e_score_correction_bias"))
    dense = sum(p.numel() for p in names.values()) + buffers - shared - experts
    assert value(metrics, "weights_bytes", kind="shared_expert") == 4 * shared
    assert value(metrics, "weights_bytes", kind="dense") == 4 * dense
    held = [value(metrics, "weights_bytes", kind="expert", shard=shard) for shard in "01"]
    assert sum(held) == 4 * experts
    assert value(metrics, "checkpoint_load_bytes_total", shard="router") == 4 * (dense + shared)
    assert (shared > 0) == (family != "mixtral")
