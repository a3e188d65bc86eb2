"""Moves experts of a running cluster, as the balancer does: by proposals to its registry. A process of its own.

    python -m tests.support.mover RAY APPLICATION CONFIG

`CONFIG` is JSON, the sections that the cluster was started with. Each line of standard input is a JSON list: `["move",
SEED, SECONDS]` proposes a placement that the seed draws, and `["wait"]` waits until it is over. Each is answered by a
line that begins with `{`.
"""

import json
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from experts.placement import LayerPlacement, Placement

POLL_S = 0.05
LIMIT_S = 120.0
LATE_S = 30.0  # the registry says later than the limit that a change has failed


class Moved(TypedDict):
    """A change of placement as it stands; see `cluster.processes.maps.migration.Migration`."""

    epoch: int
    state: str
    reason: str
    began: float
    ended: float
    copies_added: int


class Mover:
    """The other end: what its process answers. Blocks; to be called from a thread where streams flow meanwhile."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def move(self, seed: int, seconds: float = LIMIT_S) -> Moved:
        """Propose a placement; return as soon as it is coming."""
        return self._ask("move", seed, seconds)

    def wait(self) -> Moved:
        """Wait until the change is done, or has failed."""
        return self._ask("wait")

    def _ask(self, *words: object) -> Moved:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)
        line = next((line for line in self._process.stdout if line.startswith("{")), None)
        assert line is not None, f"the mover has ended: exit code {self._process.wait()}"
        found: Moved = json.loads(line)
        return found


@contextmanager
def moving(ray: str, application: str, config: dict[str, Any], checkpoint: Path | None) -> Iterator[Mover]:
    """Run a mover within the block, for a cluster that serves the checkpoint, or the bundled model."""
    sections = config | ({"model": {"checkpoint": str(checkpoint)}} if checkpoint else {})
    command = [sys.executable, "-m", __name__, ray, application, json.dumps(sections)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            yield Mover(process)
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended, and its caller has said so
                process.stdin.close()
            process.wait(LIMIT_S)


def anywhere(seed: int, current: Placement, copies: int, shards: int) -> Placement:
    """Others of so many shards for each expert: as many as it must have, or one more."""
    draw = random.Random(seed)
    most = min(copies + 1, shards)
    holders = [tuple(draw.sample(range(shards), draw.choice((copies, most)))) for _ in range(current.experts)]
    return Placement(current.shards, LayerPlacement(tuple(holders)))


def main() -> None:
    """Answer until standard input ends."""
    from cluster.cli.serve.drain_command import RAY_AUTH_MODE, TOKEN_FILE, local_ray_addresses

    address, application, sections = sys.argv[1:]
    if address in local_ray_addresses() and Path(TOKEN_FILE).expanduser().exists():
        os.environ.setdefault(RAY_AUTH_MODE, "token")  # before Ray is imported, which reads it then
    with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
        import ray

        from cluster.config import config_from
        from cluster.planner.model import open_model
        from cluster.processes.maps.map_follower import layout_of
        from cluster.processes.service_registry import known_registry

    config = config_from(json.loads(sections))
    layout = layout_of(config, open_model(config.model, config.weights).plan.spec.gate.experts)
    ray.init(address=address, namespace="expertmesh", log_to_driver=False, logging_level="error")
    registry = known_registry(application)

    def answer(words: list[Any]) -> dict[str, Any]:
        if words[0] == "move":
            view = ray.get(registry.map_view.remote(layout))
            placement = anywhere(words[1], view.current, layout.copies, layout.shards)
            ray.get(registry.propose.remote(layout, placement, view.epoch, f"seed {words[1]}", words[2]))
            return asdict(ray.get(registry.migration.remote(layout)))
        deadline = time.monotonic() + LIMIT_S + LATE_S
        while not (now := ray.get(registry.migration.remote(layout))).over and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return asdict(now)

    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
