"""Which shards share a node, and so its cores: all shards of a layer compute at the same time."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import ray

from cluster.config import ClusterConfig
from cluster.processes.process import node_id, shard_threads
from cluster.processes.ray_calls import RayTimeoutError
from cluster.processes.service_registry import Announcement, announced_in
from experts.host.log import fields

log = logging.getLogger(__name__)

# Shards that start together announce themselves before they load; one that is restarted finds the others there.
WAIT_SECONDS = 10.0
POLL_SECONDS = 0.25


def threads_of_shard(config: ClusterConfig, directory: Any) -> int:
    """CPU threads for a shard in this process: as configured, else its share of the cores of its node or pod.

    On a machine of our own all shards are here; on a joined cluster the directory knows who is.
    """
    sharing = shards = config.experts.shards
    if config.cluster.address and not config.experts.threads:
        sharing = shards_here(lambda: _announcements(directory), node_id(), shards, WAIT_SECONDS)
    threads = shard_threads(config.experts.threads, sharing)
    log.info("shard may compute with threads", extra=fields(threads=threads, shards_on_node=sharing))
    return threads


def shards_here(
    ask: Callable[[], Iterable[Announcement]],
    node: str,
    shards: int,
    wait_s: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """How many of a cluster's shards share `node`, the asking one included, as soon as all have said where they are.

    Those that have not after `wait_s` count as here: too few threads cost less than too many. `clock` and `sleep` count
    seconds, and are a test's own where it must not wait.
    """
    deadline = clock() + wait_s
    while True:
        # Of several lives of one shard the youngest counts.
        nodes = {one.index: one.node for one in ask() if one.role == "shard" and one.index < shards}
        silent = shards - len(nodes)
        if not silent or clock() >= deadline:
            return max(1, sum(where == node for where in nodes.values()) + silent)
        sleep(POLL_SECONDS)


def _announcements(directory: Any) -> list[Announcement]:
    """All entries; none while the directory does not answer, which is no reason to fail a shard."""
    try:
        return announced_in(directory)
    except (RayTimeoutError, ray.exceptions.RayError) as error:
        log.warning("the directory does not answer: %s", error)
        return []
