"""What `serve` does while its cluster serves: it says what is lost and what is back, until a signal comes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
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


@contextmanager
def without_rays_reports() -> Iterator[None]:
    """Ray reports lost processes on stdout, a page for each; they are in its logs as well, and our lines say the rest.

    Nothing of ours goes to stdout within the block.
    """
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


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
    with without_rays_reports():
        while not interrupts.wait(LOOK_SECONDS):
            watch.look()
            processes.look(known.ask())
