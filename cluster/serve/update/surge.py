"""Which new processes an update starts before the old ones end: those for which there is room.

Serve starts the new process of a deployment first if it may have more of them for a while (`max_surge_percent`). Where
nothing is free it would wait for that without an end, so here it is found out before.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from cluster.config import ClusterConfig
from cluster.planner.config_resolver import demands
from cluster.planner.memory_plan import PROCESS_BYTES
from cluster.planner.model import ServedModel
from cluster.processes.ray_calls import RayTimeoutError, call
from cluster.processes.service_registry import Announcement, known_registry, registered_in
from cluster.serve.update.node_memory import free_on_nodes
from cluster.table import size

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surge:
    """The kinds of processes of which the new one starts first, and why others do not."""

    shards: bool = False
    routers: bool = False
    fronts: bool = False
    reasons: tuple[str, ...] = ()


NO_SURGE = Surge()


@dataclass(frozen=True, slots=True)
class Found:
    """What an update finds.

    Args:
        entries: the application's processes.
        free: Ray's resources that nobody uses, by name.
        node_bytes: memory that is free on each node that has CPUs.
    """

    entries: Sequence[Announcement]
    free: Mapping[str, float]
    node_bytes: Sequence[int]


def surge_of(config: ClusterConfig, model: ServedModel) -> Surge:
    """Decide for an update that begins now. Where nothing runs yet, or Ray does not say what is free, none."""
    cluster = config.cluster
    if cluster.surge == "off":
        return NO_SURGE
    try:
        entries = registered_in(known_registry(cluster.application))
        if not entries:
            return NO_SURGE
        free = call(ray.available_resources, "the list of what is free")
        node_bytes = free_on_nodes() if cluster.surge == "auto" else []
    except ValueError:  # nobody has started a registry
        return NO_SURGE
    except (RayTimeoutError, ray.exceptions.RayError) as error:
        log.warning("the update ends old processes first: %s", error)
        return NO_SURGE
    decided = decide(config, model, Found(entries, free, node_bytes))
    # As text: where Serve builds an application, logging is not set up, and shows warnings alone.
    for reason in decided.reasons:
        log.warning("an old process of the update ends before the new one starts: %s", reason)
    return decided


def decide(config: ClusterConfig, model: ServedModel, found: Found) -> Surge:
    """Which processes there is room for beside those that run. `on` looks only at what could never work."""
    ports = _port_reason(found.entries)
    if config.cluster.surge == "on":
        return Surge(shards=True, routers=True, fronts=not ports, reasons=_given(ports))
    on_gpu = model.device.type == "cuda"  # one that nobody uses has its memory free
    memory = "" if on_gpu else _short_of(found.node_bytes, _new_bytes(config, model, found))
    shards = memory or _resource_reason(config, model, found.free, "shard", config.cluster.shard_resource)
    routers = memory or _resource_reason(config, model, found.free, "router", config.cluster.router_resource)
    fronts = ports or _short_of(found.node_bytes, PROCESS_BYTES)
    fronts = fronts or _lacking(found.free, "Front", {config.cluster.front_resource: 1.0})
    return Surge(not shards, not routers, not fronts, _given(shards, routers, fronts))


def _given(*reasons: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, reasons)))


def _port_reason(entries: Sequence[Announcement]) -> str:
    """A Front that has its port alone cannot be followed by one that is to bind it meanwhile."""
    fronts = [one for one in entries if one.role == "front"]
    return "" if fronts and all(one.shares_port for one in fronts) else "the Fronts that run do not share their port"


def _resource_reason(
    config: ClusterConfig, model: ServedModel, free: Mapping[str, float], what: str, resource: str
) -> str:
    """One of each is enough: new ones that wait get what the old one of another leaves."""
    needed = {"CPU": 1.0, resource: 1.0}
    if model.device.type == "cuda":
        # A part of a GPU says nothing of the memory on it.
        needed["GPU"] = max(1.0, config.cluster.gpus_per_process)
    return _lacking(free, what, needed)


def _lacking(free: Mapping[str, float], what: str, needed: Mapping[str, float]) -> str:
    lacks = [name for name, number in needed.items() if name and free.get(name, 0.0) < number]
    return f"no {' and no '.join(lacks)} is free for another {what}" if lacks else ""


def _new_bytes(config: ClusterConfig, model: ServedModel, found: Found) -> int:
    """What the new shards and routers may need of one node, if they spread evenly over the nodes."""
    demand = demands(config, model).of(config.weights.resident)
    shards = max(config.experts.shards, len({one.index for one in found.entries if one.role == "shard"}))
    crowd = math.ceil((shards + config.cluster.routers) / max(1, len(found.node_bytes)))
    return crowd * max(demand.shard(config.experts.shards), demand.router)


def _short_of(node_bytes: Sequence[int], needed: int) -> str:
    """Why a node does not hold so much more; empty if each does."""
    if not node_bytes:
        return "no node says how much memory it has"
    least = min(node_bytes)
    return "" if needed <= least else f"a node has {size(least)} free, the new processes may need {size(needed)}"
