"""What each process of the cluster sets up for itself before it computes."""

import os
from collections.abc import Mapping

import ray
from ray import serve

from cluster.config import ClusterConfig
from experts.host.cores import usable_cores
from experts.host.log import set_up_logging


def environment() -> dict[str, str]:
    """Variables that every process must have before torch is imported.

    Processes share cores: OpenMP's default busy waiting would take them from each other. A replica that hangs cannot
    drain: Serve must not wait for it.
    """
    return {
        "OMP_WAIT_POLICY": "passive",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    }


def ray_settings(given: Mapping[str, str]) -> dict[str, str]:
    """Variables for a Ray that is started here, without those that are `given`: the user's settings win.

    Ray starts workers at nice 15, behind everything else on the machine, but ours are latency-critical. Ray's log
    files rotate; by default one may grow to 512 MiB. A process that hangs does not hear that it is to end: Ray
    kills it after a second, not five.
    """
    settings = {
        "RAY_worker_niceness": "0",
        "RAY_ROTATION_MAX_BYTES": str(100 << 20),
        "RAY_ROTATION_BACKUP_COUNT": "3",
        "RAY_kill_worker_timeout_milliseconds": "1000",
    }
    return {name: value for name, value in settings.items() if name not in given}


def node_id() -> str:
    """This node, by which peers choose between unix socket and TCP."""
    return str(ray.get_runtime_context().get_node_id())


def replica_id() -> str:
    """This replica's short id."""
    return str(serve.get_replica_context().replica_id.unique_id)


def data_host(config: ClusterConfig) -> str:
    """Where the data plane binds: loopback on a cluster of our own, the node's address on one that we joined."""
    return str(ray.util.get_node_ip_address()) if config.cluster.address else "127.0.0.1"


def reachable_host(host: str) -> str:
    """The address at which others find what is bound to `host`: the node's own where it is bound to all."""
    return str(ray.util.get_node_ip_address()) if host in ("", "0.0.0.0", "::") else host


def shard_threads(configured: int, sharing: int) -> int:
    """A shard's CPU threads: as configured, or with 0 its share of the cores that so many shards share."""
    return configured or max(1, usable_cores() // sharing)


def do_not_preempt() -> None:
    """Do not preempt the process whose message wakes this one: it has other shards to wake.

    Measured on two cores with two shards: the second shard's message left 0.13 ms after the first one's, not 0.86 ms.
    """
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def set_logging(config: ClusterConfig, role: str) -> None:
    """Log as configured; each line says that it is of this replica, whose role is front, router or shard N."""
    set_up_logging(config.logging, role, replica_id())
