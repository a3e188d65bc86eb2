"""How much memory is free on each node of a Ray that is joined: only a process there can say."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.processes.ray_calls import call, get
from experts.host.memory import host_bytes

# Ray starts a process for it.
SECONDS = 60.0


def free_on_nodes() -> list[int]:
    """Bytes that are free now on each node that has CPUs.

    Raises:
        RayTimeoutError: not all nodes answer.
        ray.exceptions.RayError: one died meanwhile.
    """
    nodes = [node["NodeID"] for node in call(ray.nodes, "the list of its nodes") if _computes(node)]
    found: list[int] = get([_asked(node) for node in nodes], "its nodes to say what memory is free", SECONDS)
    return found


def _computes(node: dict[str, Any]) -> bool:
    return bool(node["Alive"] and node["Resources"].get("CPU"))


def _asked(node: str) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(host_bytes).options(num_cpus=0, scheduling_strategy=there).remote()
