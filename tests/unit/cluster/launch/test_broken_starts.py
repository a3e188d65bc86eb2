"""Starts that a signal breaks off, or Ray: what is answered, what is taken down, what stays."""

import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from cluster.config import config_from
from cluster.processes.signals import Interrupts
from tests.unit.cluster.launch.fake_serve import NAME, FakeRay, FakeServe, joined, on

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.serve import launcher, ray_start
    from cluster.serve.application_watch import ApplicationWatch
    from cluster.serve.own.own_ray import OwnRay
    from cluster.serve.ray_start import RayFailedError


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start.os, "environ", dict(os.environ))


def test_a_signal_while_ray_starts_deploys_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def wait() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        end.wait(60.0)

    serve, ray, interrupts = FakeServe(), FakeRay(waits=wait), Interrupts()
    with joined(monkeypatch, serve, ray, on("auto")) as one:
        assert one.up(interrupts) is None
        assert one.abandoned
    end.set()
    assert serve.changes == []


@pytest.mark.parametrize("hangs", ["start", "run_many", "status"])
def test_a_signal_is_answered_whatever_hangs(monkeypatch: pytest.MonkeyPatch, hangs: str) -> None:
    interrupts, end = Interrupts(), threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        end.wait(60.0)

    serve = FakeServe()
    with joined(monkeypatch, serve, FakeRay(), on("auto")) as one:
        setattr(serve, hangs, hang)
        assert one.up(interrupts) is None
        end.set()
        serve.status = FakeServe.status.__get__(serve)  # type: ignore[method-assign]
    assert (f"delete {NAME}" in serve.changes) == (hangs == "run_many")


class Died(OwnRay):
    """A Ray of which a carrying process has ended."""

    def missing(self) -> list[str]:
        return ["raylet"]


def test_a_ray_that_dies_while_serve_waits_for_it_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    end = threading.Event()
    monkeypatch.setattr(launcher, "OwnRay", Died)
    monkeypatch.setattr(launcher, "ray_root", lambda: tmp_path)
    config = config_from({"weights": {"resident": "dequantized"}})
    with (
        pytest.raises(RayFailedError, match=r"^Ray's raylet ended$"),
        joined(monkeypatch, FakeServe(), FakeRay(waits=end.wait), config) as one,
    ):
        one.up(Interrupts())
    end.set()


@pytest.mark.parametrize("error", [Exception("timed out during startup"), ConnectionError("gone"), OSError("full")])
def test_whatever_ray_raises_as_it_starts_is_one_error_and_its_logs_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    session = tmp_path / f"session_x_{os.getpid()}"

    def fail() -> None:
        session.mkdir()
        raise error

    monkeypatch.setattr(launcher, "ray_root", lambda: tmp_path)
    config = config_from({"weights": {"resident": "dequantized"}})
    one = joined(monkeypatch, FakeServe(), FakeRay(waits=fail), config)
    with pytest.raises(RayFailedError, match=f"cannot start or join Ray \\(local\\): {error}"), one:
        one.up(Interrupts())
    assert session.is_dir()


def test_the_folder_of_a_ray_that_ended_well_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session = tmp_path / f"session_x_{os.getpid()}"
    monkeypatch.setattr(launcher, "ray_root", lambda: tmp_path)
    monkeypatch.setattr(ApplicationWatch, "status", lambda _: {"routers": 1})
    serve = FakeServe()
    monkeypatch.setattr(serve, "run_many", lambda *_, **__: None)
    config = config_from({"weights": {"resident": "dequantized"}})
    with joined(monkeypatch, serve, FakeRay(waits=session.mkdir), config) as one:
        one.up(Interrupts())
        assert (session / "expertmesh.json").is_file()
    assert not session.exists()


@pytest.mark.parametrize(
    ("deployed_at", "changes"), [(0.0, [f"delete {NAME}", f"forget {NAME}"])], ids=["no reply came"]
)
def test_what_serve_may_have_taken_is_deleted(
    monkeypatch: pytest.MonkeyPatch, deployed_at: float, changes: list[str]
) -> None:
    serve = FakeServe()
    monkeypatch.setattr(ApplicationWatch, "deployed_at", lambda _: deployed_at)
    with pytest.raises(RuntimeError, match="Serve fails"), joined(monkeypatch, serve, FakeRay(), on("auto")) as one:
        one.up(Interrupts())
    assert serve.changes[-2:] == changes
