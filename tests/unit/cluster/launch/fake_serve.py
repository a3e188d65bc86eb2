"""Ray and Serve as far as the launcher calls them, and a launcher on them."""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import ray as real_ray

from cluster.config import ClusterConfig, config_from

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.name_claim import NameClaimedError
    from cluster.serve import application_watch, launcher, ray_start, taking_down
    from cluster.serve.launcher import Launcher

NAME = "expertmesh"


class FakeServe:
    """Serve's API with applications of others; notes what changes something."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.changes: list[str] = []

    def status(self) -> Any:
        running = SimpleNamespace(value="RUNNING")
        return SimpleNamespace(
            applications={name: SimpleNamespace(status=running, last_deployed_time_s=5.0) for name in self.names}
        )

    def start(self, **_: Any) -> None:
        self.changes.append("start")

    def run_many(self, targets: Any, **_: Any) -> None:
        self.changes.append(f"run {targets[0].name}")
        raise RuntimeError("Serve fails")

    def delete(self, name: str) -> None:
        self.changes.append(f"delete {name}")

    RunTarget = staticmethod(lambda _, **options: SimpleNamespace(**options))


class FakeRay:
    """Ray's API, as far as joining goes."""

    def __init__(self, refuses: str = "", waits: Callable[[], object] = lambda: None) -> None:
        self.refuses = refuses
        self.waits = waits
        self.exceptions = real_ray.exceptions
        self.seen: dict[str, str] = {}
        self.left = False
        self.util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")

    def init(self, **_: Any) -> None:
        self.seen = dict(os.environ)
        self.waits()
        if self.refuses:
            raise ConnectionError(self.refuses)

    def is_initialized(self) -> bool:
        return True


class FakeClaims:
    """The claims to names; somebody else may hold one for the first few tries."""

    def __init__(self, others: int = 0) -> None:
        self.others = others
        self.held: list[str] = []

    @contextmanager
    def claimed(self, name: str, *_: Any) -> Iterator[None]:
        self.others -= 1
        if self.others >= 0:
            raise NameClaimedError(f"another process is starting or ending {name}")
        self.held.append(name)
        yield
        self.held.remove(name)


def joined(
    monkeypatch: pytest.MonkeyPatch,
    serve: FakeServe,
    ray: FakeRay,
    config: ClusterConfig,
    claims: FakeClaims | None = None,
) -> Launcher:
    claims = claims or FakeClaims()
    for module in (launcher, application_watch, taking_down):
        monkeypatch.setattr(module, "serve", serve)
    for module in (launcher, ray_start):
        monkeypatch.setattr(module, "ray", ray)
    for module in (launcher, taking_down):
        monkeypatch.setattr(module, "claimed_name", claims.claimed)
    monkeypatch.setattr(taking_down, "ORDER_SECONDS", 0.0)
    monkeypatch.setattr(taking_down, "ordering_the_end", lambda _: lambda: None)
    monkeypatch.setattr(launcher, "known_registry", lambda _: None)
    monkeypatch.setattr(launcher, "resolved", lambda config: config)
    monkeypatch.setattr(launcher, "build_app", lambda *_: "application")
    monkeypatch.setattr(taking_down, "remove_registry", lambda name: serve.changes.append(f"forget {name}"))
    monkeypatch.setattr(launcher, "leave", lambda: setattr(ray, "left", True))
    return Launcher(config, io.StringIO())


def on(address: str) -> ClusterConfig:
    return config_from({"cluster": {"address": address}})
