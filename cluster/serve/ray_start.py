"""How `serve` starts a Ray of its own, or joins a running one."""

import logging
import os
from typing import Any

import ray

from cluster.config import ClusterConfig
from cluster.processes.process import environment, ray_settings
from cluster.processes.ray_calls import START_SECONDS, call


class StartError(RuntimeError):
    """The cluster did not come up; the message says what Serve or Ray says."""


def start_ray(config: ClusterConfig) -> None:
    """Start a Ray on this machine, or join the one at `cluster.address`.

    Raises:
        StartError: Ray refuses.
        RayTimeoutError: Ray does not answer.
    """
    address = config.cluster.address
    os.environ.update(environment())
    if not address:
        os.environ.update(ray_settings(os.environ))
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options = _options(config)
    try:
        call(lambda: ray.init(**options), "it to start or to be joined", START_SECONDS)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StartError(f"cannot start or join Ray ({address or 'local'}): {' '.join(str(error).split())}") from error


def _options(config: ClusterConfig) -> dict[str, Any]:
    """The arguments of `ray.init`. A Ray that is joined has its own CPUs and dashboard."""
    address = config.cluster.address
    # Each shard and router asks Ray for one CPU: with fewer than that, Ray would leave some of them pending for ever.
    processes = config.experts.shards + config.cluster.routers
    return {
        "address": address or "local",
        "num_cpus": None if address else max(os.cpu_count() or 1, processes),
        "include_dashboard": None if address else False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "expertmesh",
    }
