"""Joining a Ray cluster that runs already, of three nodes: the data plane goes over TCP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from router_service.client.client import Client
from tests.e2e.answers import collect, tokens_of
from tests.e2e.server import gone, serving
from tests.e2e.shared_ray import running
from tests.support.tiny import greedy, write_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.e2e]

# A Ray of three nodes with a CPU each: router and shards must live apart.
THREE_NODES = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(json.dumps(cluster.address), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture
def address() -> Iterator[str]:
    with running(THREE_NODES) as started:
        yield started.address


async def test_join_three_nodes(address: str, tmp_path: Path) -> None:
    oracle = write_checkpoint(tmp_path, "qwen3_moe")
    flags = ("--address", address, "--shards", "2", "--copies", "2")
    with serving(str(tmp_path), *flags, log=tmp_path / "log") as server:
        async with Client(server.target) as client:
            answer = await collect(client, tokens=[2, 7, 1], max_tokens=24, temperature=0.0)
            state = await client.cluster()
        assert tokens_of(answer) == greedy(oracle, [2, 7, 1], 24)
        assert len({shard.node for shard in state.shards}) == 2
        # Each expert of each layer is on both shards, and so on two nodes.
        held = sum(oracle.config.num_experts for layer in oracle.model.layers if hasattr(layer.mlp, "experts"))
        assert {shard.experts for shard in state.shards} == {held}
        assert {(shard.copies, shard.epoch) for shard in state.shards} == {(2, 1)}
        pids = {shard.pid for shard in state.shards}
        assert server.stop() == 0
    assert not gone(pids)
