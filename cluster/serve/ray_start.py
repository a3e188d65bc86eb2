"""How `serve` starts a Ray of its own, or joins a running one."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import ray

from cluster.config import ClusterConfig
from cluster.processes.process import environment, ray_settings
from cluster.processes.ray_calls import START_SECONDS, call


class StartError(RuntimeError):
    """The cluster did not come up; the message says what Serve or Ray says."""


class RayFailedError(StartError):
    """A Ray of our own did not come up, or its own processes ended: another try may do."""


def start_ray(config: ClusterConfig, go_on: Callable[[], None]) -> None:
    """Start a Ray on this machine, or join the one at `cluster.address`.

    Args:
        go_on: called meanwhile; what it raises ends the wait.

    Raises:
        RayFailedError: a Ray of our own does not start.
        StartError: one that is to be joined refuses.
        RayTimeoutError: Ray does not answer.
    """
    address = config.cluster.address
    os.environ.update(environment())
    if not address:
        os.environ.update(ray_settings(os.environ))
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options = _options(config)
    call(lambda: _init(address, options), "it to start or to be joined", START_SECONDS, go_on)


def _init(address: str, options: dict[str, Any]) -> None:
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises a bare one when its own processes are not up in time
        said = f"cannot start or join Ray ({address or 'local'}): {' '.join(str(error).split())}"
        raise (StartError if address else RayFailedError)(said) from error


def _options(config: ClusterConfig) -> dict[str, Any]:
    """The arguments of `ray.init`. A Ray that is joined has its own CPUs and dashboard."""
    address = config.cluster.address
    # Each shard and router asks Ray for one CPU: with fewer than that, Ray would leave some of them pending for ever.
    # One more, so that the replacement of one that hangs can start before that is dead.
    processes = config.experts.room(sys.maxsize) + config.cluster.routers + 1
    return {
        "address": address or "local",
        "num_cpus": None if address else max(os.cpu_count() or 1, processes),
        "include_dashboard": None if address else False,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "expertmesh",
    }
