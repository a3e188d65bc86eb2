"""A model that does not fit the nodes of a joined Ray cluster: only its processes can know, and they say so."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server import environment
from tests.e2e.shared_ray import SharedRay
from tests.support.tiny import write_checkpoint

pytestmark = [pytest.mark.e2e, pytest.mark.ray]


def test_nodes_too_small_are_said_in_one_line(shared_ray: SharedRay, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "qwen3_moe")
    file = tmp_path / "cluster.yaml"
    file.write_text("cluster:\n  memory_limit_gib: 0.1\n")
    command = [sys.executable, "-m", "cluster.cli.main", "serve", str(tmp_path), "--config", str(file)]
    # Ports of its own: where a server has the usual ones, lines say so.
    command += [*shared_ray.joined_as("refused"), "--grpc-port", "0", "--metrics-port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment())
    assert done.returncode == 2
    assert done.stdout == ""
    started, line = done.stderr.splitlines()
    assert started.startswith("expertmesh: starting ")
    assert line.startswith("expertmesh: the model does not fit: a shard of 2 needs 38")
    assert "no number of shards fits with so much for each" in line
