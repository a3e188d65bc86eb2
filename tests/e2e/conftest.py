"""Clusters of the tests that join the Ray of the whole run: a Ray of its own for each would take seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.answers import Served
from tests.e2e.server import serving
from tests.e2e.shared_ray import SharedRay
from tests.support.tiny import write_checkpoint


@pytest.fixture(scope="module", params=["mixtral", "qwen3_moe"])
def served(
    request: pytest.FixtureRequest, shared_ray: SharedRay, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A tiny float32 checkpoint of each family on two shards."""
    path = tmp_path_factory.mktemp(request.param)
    oracle = write_checkpoint(path, request.param)
    with serving(str(path), "--shards", "2", *shared_ray.joined_as(request.param), log=path / "log") as server:
        yield Served(server, oracle, path)


@pytest.fixture
def one(shared_ray: SharedRay, tmp_path: Path) -> Iterator[Served]:
    """A server of its own for a test that harms it: three shards, so that one is not half of everything.

    Its requests wait for a shard however long a busy machine takes to start one.
    """
    oracle = write_checkpoint(tmp_path, "qwen3_moe")
    (tmp_path / "patient.yaml").write_text("router: {unavailable_wait_seconds: 200}\n")
    arguments = (str(tmp_path), "--shards", "3", "--config", str(tmp_path / "patient.yaml"))
    with serving(*arguments, *shared_ray.joined_as("harmed"), log=tmp_path / "log") as server:
        yield Served(server, oracle, tmp_path)
