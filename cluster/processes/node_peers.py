"""Node peers: the shards that share a node and so its cores, since all shards of a layer compute at the same time."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import ray

from cluster.config import ClusterConfig
from cluster.processes.process import node_id, shard_threads
from cluster.processes.ray_calls import RayTimeoutError
from cluster.processes.service_registry import Announcement, registered_in
from experts.host.log import fields

log = logging.getLogger(__name__)

# Shards that start together register before they load; a restarted one finds the others registered.
WAIT_SECONDS = 10.0
POLL_SECONDS = 0.25


def threads_of_shard(config: ClusterConfig, registry: Any, shards: int) -> int:
    """CPU threads for a shard in this process: as configured, else its share of the cores of its node or pod.

    On a machine of our own all `shards` are here; on a joined cluster the registry knows which are.

    Args:
        shards: how many there are, the caller included.
    """
    sharing = shards  # the safe side: too few threads cost less than too many
    if config.cluster.address and not config.experts.threads:
        sharing = shards_here(lambda: announced_in(registry), node_id(), shards, wait_s=WAIT_SECONDS)
    threads = shard_threads(config.experts.threads, sharing)
    log.info("shard may compute with threads", extra=fields(threads=threads, shards_on_node=sharing))
    return threads


def shards_here(
    ask: Callable[[], Iterable[Announcement]],
    node: str,
    shards: int,
    *,
    wait_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """How many of a cluster's shards share `node`, the caller included, as soon as all have registered.

    Those that have not after `wait_s` count as here: too few threads cost less than too many. `clock` and `sleep` count
    seconds, and are a test's own where it must not wait.
    """
    deadline = clock() + wait_s
    while True:
        # A restarted shard may be listed twice: the youngest entry comes last and wins.
        nodes = {one.index: one.node for one in ask() if one.role == "shard"}
        missing = max(0, shards - len(nodes))
        if not missing or clock() >= deadline:
            return max(1, sum(where == node for where in nodes.values()) + missing)
        sleep(POLL_SECONDS)


def announced_in(registry: Any) -> list[Announcement]:
    """All entries; none while the registry does not answer, which is no reason to fail a process that starts."""
    try:
        return registered_in(registry)
    except (RayTimeoutError, ray.exceptions.RayError) as error:
        log.warning("the registry does not answer: %s", error)
        return []
