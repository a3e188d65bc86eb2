"""What `serve` does while its cluster serves: it says what is lost and what is back, until a signal comes."""

from collections.abc import Callable
from typing import TextIO

from cluster.config import ControlPlaneConfig
from cluster.processes.known_processes import KnownProcesses
from cluster.processes.lost_and_back import LostAndBack
from cluster.processes.process import node_id
from cluster.processes.service_registry import known_registry
from cluster.processes.signals import Interrupts
from cluster.serve.own.own_ray import OwnRay
from cluster.serve.own.ray_watch import RayWatch

LOOK_SECONDS = 0.5


def vigil(config: ControlPlaneConfig, address: str, interrupts: Interrupts, output: TextIO) -> None:
    """Return when a signal has come.

    Args:
        address: HOST:PORT of Ray's control service (GCS).

    Raises:
        RayLostError: Ray is gone, and will soon end all processes.
    """
    known = KnownProcesses(known_registry(config.application))
    processes = LostAndBack(output, node_id())
    missing: Callable[[], list[str]] = list if config.address else OwnRay().missing
    watch = RayWatch(config, address, missing, output)
    while not interrupts.wait(LOOK_SECONDS):
        watch.look()
        processes.look(known.ask())
