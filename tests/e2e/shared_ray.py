"""One Ray that the tests' clusters join: each then costs its own processes' start and no more.

A test may kill processes of its own cluster, which it names after itself; what ends or harms a Ray starts its own.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.server import descendants_of, environment, gone

STOP_SECONDS = 60
# One node with room for a few clusters' processes.
ONE_NODE = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, "include_dashboard": False})
print(json.dumps(cluster.address), flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@dataclass(frozen=True)
class SharedRay:
    """A running Ray: `address` as HOST:PORT, `pid` of the process above all of its own."""

    address: str
    pid: int

    def descendants(self) -> set[int]:
        """The processes of all clusters that have joined, and Ray's own."""
        return descendants_of(self.pid)

    def logs(self) -> Path:
        """Where Ray keeps a file of what each process has logged."""
        found = re.search(rb"--logs[-_]dir=([^\0]+)", b"\0".join(map(_arguments, self.descendants())))
        assert found is not None, "no log directory in Ray's command lines"
        return Path(found[1].decode())

    def joined_as(self, name: str) -> tuple[str, ...]:
        """Arguments of `expertmesh serve` that join it as an application of this name."""
        return ("--address", self.address, "--name", name)


def _arguments(pid: int) -> bytes:
    """A process's command line, nothing where it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@contextmanager
def running(script: str) -> Iterator[SharedRay]:
    """Run a Ray that `script` starts; it prints the address and ends with its standard input, and so do all below."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(
        [sys.executable, "-c", script], text=True, start_new_session=True, env=environment(), **pipes
    )
    assert process.stdin is not None
    assert process.stdout is not None
    line = next((line for line in process.stdout if line.startswith('"')), None)
    assert line is not None, f"Ray did not start, exit code {process.wait(STOP_SECONDS)}"
    yield SharedRay(json.loads(line), process.pid)
    family = descendants_of(process.pid)
    process.stdin.close()
    process.wait(STOP_SECONDS)
    process.stdout.close()
    assert not gone(family)


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[SharedRay]:
    """A Ray of one node for the whole run."""
    with running(ONE_NODE) as started:
        yield started
