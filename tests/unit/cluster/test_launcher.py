"""What `serve --address` takes down, what it refuses to replace, and how a Ray of our own is started."""

import io
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray as real_ray

from cluster.cli.main import main
from cluster.config import ClusterConfig, config_from
from cluster.processes.service_registry import Announcement
from cluster.processes.signals import Interrupts

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.name_claim import NameClaimedError
    from cluster.processes.process import ray_settings
    from cluster.serve import application_watch, launcher, ray_start, taking_down
    from cluster.serve.application_watch import ApplicationWatch
    from cluster.serve.launcher import Launcher
    from cluster.serve.own.own_ray import OwnRay
    from cluster.serve.ray_start import RayFailedError, StartError

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


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ray_start.os, "environ", dict(os.environ))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


def test_one_whose_name_is_taken_is_refused_and_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    serve, ray = FakeServe("other", NAME), FakeRay()
    said = r"application expertmesh is on the Ray at 10.0.0.1:6379 already \(RUNNING\): give this one another --name"
    with pytest.raises(StartError, match=said), joined(monkeypatch, serve, ray, on("10.0.0.1:6379")) as one:
        one.up(Interrupts())
    assert serve.changes == []


def test_one_that_cannot_join_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    serve, ray = FakeServe(NAME), FakeRay(refuses="nobody there")
    with pytest.raises(StartError, match="nobody there"), joined(monkeypatch, serve, ray, on("auto")) as one:
        one.up(Interrupts())
    assert serve.changes == []


def test_one_that_deployed_takes_down_what_it_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    serve, ray = FakeServe("other"), FakeRay()
    with pytest.raises(RuntimeError, match="Serve fails"), joined(monkeypatch, serve, ray, on("auto")) as one:
        one.up(Interrupts())
    assert serve.changes == ["start", f"run {NAME}", f"delete {NAME}", f"forget {NAME}"]


def test_one_that_another_starts_at_the_same_moment_is_refused_and_touches_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other has looked whether the name is taken, and has not deployed yet."""
    serve, ray = FakeServe(), FakeRay()
    said = r"^another process is starting or ending expertmesh on the Ray at auto: give this one another --name$"
    with (
        pytest.raises(StartError, match=said),
        joined(monkeypatch, serve, ray, on("auto"), FakeClaims(others=1)) as one,
    ):
        one.up(Interrupts())
    assert serve.changes == []


def test_what_changes_an_application_does_so_under_the_claim_to_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    claims, held = FakeClaims(), list[tuple[str, ...]]()

    class Watching(FakeServe):
        def run_many(self, targets: Any, **_: Any) -> None:
            held.append(tuple(claims.held))
            self.names = (targets[0].name,)

        def delete(self, name: str) -> None:
            held.append((*claims.held, name))

    serve = Watching()
    monkeypatch.setattr(ApplicationWatch, "status", lambda _: {"routers": 1})
    with joined(monkeypatch, serve, FakeRay(), on("auto"), claims) as one:
        one.up(Interrupts())
        assert claims.held == []
        claims.others = 2  # somebody who tries the name and is refused
    assert held == [(NAME,), (NAME, NAME)]


def test_what_somebody_else_has_deployed_anew_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0, 9.0])

    class Redeployed(FakeServe):
        def run_many(self, targets: Any, **_: Any) -> None:
            self.names = (targets[0].name,)

    serve = Redeployed()
    monkeypatch.setattr(ApplicationWatch, "status", lambda _: {"routers": 1})
    monkeypatch.setattr(ApplicationWatch, "deployed_at", lambda _: next(times))
    with joined(monkeypatch, serve, FakeRay(), on("auto")) as one:
        one.up(Interrupts())
    assert serve.changes == ["start"]


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


def test_a_signal_before_it_is_ready_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Launcher, "up", lambda *_: None)
    assert main(["serve", "--grpc-port", "0", "--metrics-port", "0"]) == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1] == "stopping: a signal came before the cluster was ready"
    assert shown.out == ""


def test_each_step_of_a_process_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    router = Announcement("router", 0, "r", "node", 7, "loading", loaded_bytes=3 << 19, total_bytes=3 << 20)
    shard = Announcement("shard", 1, "s", "node", 8, "ready", loaded_bytes=1 << 20, total_bytes=1 << 20)
    front = SimpleNamespace(replica_states={"RUNNING": 1}, message="")
    state = SimpleNamespace(status="RUNNING", message="", deployments={"Front": front})
    answer = SimpleNamespace(result=lambda **_: {"announcements": [router, shard]})
    handle = SimpleNamespace(status=SimpleNamespace(remote=lambda: answer))
    serve = SimpleNamespace(
        status=lambda: SimpleNamespace(applications={NAME: state}), get_deployment_handle=lambda *_: handle
    )
    context = SimpleNamespace(gcs_address="10.0.0.1:6379")
    monkeypatch.setattr(application_watch, "serve", serve)
    monkeypatch.setattr(application_watch, "ray", SimpleNamespace(get_runtime_context=lambda: context))
    progress = io.StringIO()
    watch = ApplicationWatch(ClusterConfig().cluster, progress)
    for _ in range(2):
        assert (watch.status() or {})["ray"] == "10.0.0.1:6379"
    lines = ["router: loading, 50% of 3.0 MiB (pid 7)", "shard 1: ready, 1.0 MiB (pid 8)"]
    assert progress.getvalue().splitlines() == lines


@pytest.mark.parametrize(("address", "nice"), [("", "0"), ("auto", None)])
def test_a_ray_of_our_own_does_not_put_workers_behind_all_else(
    address: str, nice: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay(refuses="it is enough to see how it starts")
    config = config_from({"cluster": {"address": address}, "weights": {"resident": "dequantized"}})
    with pytest.raises(StartError), joined(monkeypatch, FakeServe(), ray, config) as one:
        one.up(Interrupts())
    assert ray.seen.get("RAY_worker_niceness") == nice


def test_settings_of_ray_are_the_users_first() -> None:
    ours = ray_settings({})
    assert ours["RAY_worker_niceness"] == "0"
    assert int(ours["RAY_ROTATION_MAX_BYTES"]) * (1 + int(ours["RAY_ROTATION_BACKUP_COUNT"])) <= 1 << 29
    assert "RAY_worker_niceness" not in ray_settings({"RAY_worker_niceness": "7"})
    assert ray_settings(ours) == {}
