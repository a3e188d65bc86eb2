"""Clusters that several tests share: starting one takes seconds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Server, serving
from tests.tiny import write_checkpoint


@dataclass
class Served:
    """A server and the oracle of what it serves."""

    server: Server
    oracle: Any
    checkpoint: Path


@pytest.fixture(scope="module", params=["mixtral", "qwen3_moe"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A tiny float32 checkpoint of each family on two shards."""
    path = tmp_path_factory.mktemp(request.param)
    oracle = write_checkpoint(path, request.param)
    with serving(str(path), "--shards", "2", log=path / "log") as server:
        yield Served(server, oracle, path)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Served]:
    """A server of its own for a test that harms it: three shards, so that one is not half of everything.

    Its requests wait for a shard however long a busy machine takes to start one.
    """
    oracle = write_checkpoint(tmp_path, "qwen3_moe")
    (tmp_path / "patient.yaml").write_text("router: {unavailable_wait_seconds: 200}\n")
    arguments = (str(tmp_path), "--shards", "3", "--config", str(tmp_path / "patient.yaml"))
    with serving(*arguments, log=tmp_path / "log") as server:
        yield Served(server, oracle, tmp_path)
