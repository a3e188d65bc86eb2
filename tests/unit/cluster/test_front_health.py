"""What Serve hears of a Front of which something has died."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experts.host.watched_thread import ThreadWatch
from tests.support.tiny import write_checkpoint

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.serve import front_replica


class Process:
    """A registered process without a registry."""

    def __init__(self, *_: object) -> None:
        self.registry = None
        self.threads = ThreadWatch()
        self.endpoints: list[object] = []

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        yield

    def go_on(self) -> None: ...

    def ready(self, endpoint: object, **_: object) -> None:
        self.endpoints.append(endpoint)


class Server:
    """A Front's server, the search for routers of which may be dead."""

    metrics_port = 0

    def __init__(self, *, threads: ThreadWatch, **_: object) -> None:
        self.threads = threads
        self.dead = False

    async def start(self, takes_over: bool) -> None:
        assert not takes_over

    def check_health(self) -> None:
        if self.dead:
            raise RuntimeError("tasks have died: router poller; the log says why")


class Replica(front_replica.FrontReplica):
    def __del__(self) -> None:  # type: ignore[override]
        """Serve awaits it; here there is nobody who would."""


async def test_the_death_of_a_task_fails_the_health_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, "mixtral")
    process, servers = Process(), list[Server]()

    def server(**options: Any) -> Server:
        servers.append(Server(**options))
        return servers[-1]

    monkeypatch.setattr(front_replica, "RegisteredProcess", lambda *_: process)
    monkeypatch.setattr(front_replica, "FrontServer", server)
    monkeypatch.setattr(front_replica, "load_text_model", lambda *_: SimpleNamespace(chat=None))
    monkeypatch.setattr(front_replica, "model_parsers", lambda *_: None)
    monkeypatch.setattr(front_replica, "node_id", lambda: "n")
    data = {"model": {"checkpoint": str(tmp_path), "device": "cpu"}, "weights": {"resident": "dequantized"}}
    replica = Replica(data, b"secret", bytes(32))
    (made,) = servers
    assert made.threads is process.threads
    await replica.check_health()
    assert process.endpoints == [None]
    made.dead = True
    with pytest.raises(RuntimeError, match="tasks have died: router poller"):
        await replica.check_health()
