"""The processes of a Ray of our own: which of them are missed, and how all of them end."""

import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.serve.own import own_ray
    from cluster.serve.own.own_ray import LOOK_SECONDS, OwnRay
    from cluster.serve.ray_start import RayFailedError

# Starts a child of its own, as a raylet its workers, and says when that runs.
PROGRAM = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print("up", flush=True)
time.sleep(600)
"""
BELOW = "import time; time.sleep(600)"


@pytest.fixture
def raylet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """A process that looks like a raylet, and one below it; and one that is no part of Ray."""
    link = tmp_path / "raylet"
    link.symlink_to(sys.executable)
    monkeypatch.setattr(own_ray, "RAY_FILES", str(tmp_path))
    other = subprocess.Popen([sys.executable, "-c", BELOW])
    with subprocess.Popen([str(link), "-c", PROGRAM, BELOW], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)
        process.kill()
    assert other.poll() is None, "not Ray's"
    other.kill()
    other.wait()


def test_one_that_ended_is_missed(raylet: psutil.Process) -> None:
    now = 0.0
    own = OwnRay(lambda: now)
    assert own.missing() == []
    raylet.kill()
    raylet.wait()
    with pytest.raises(RayFailedError, match=r"^Ray's raylet ended$"):
        own.check()
    now += LOOK_SECONDS
    assert own.missing() == ["raylet"]


def test_the_dead_one_of_an_earlier_try_is_not_missed(raylet: psutil.Process) -> None:
    raylet.kill()
    while raylet.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert OwnRay().missing() == []


def test_the_end_leaves_nothing_of_ray_and_all_else(raylet: psutil.Process) -> None:
    family = [raylet, *raylet.children()]
    assert len(family) == 2
    OwnRay().kill()
    _, alive = psutil.wait_procs(family, timeout=60.0)
    assert alive == []


def test_without_a_ray_nothing_is_missed() -> None:
    own = OwnRay()
    own.check()
    own.kill()
