"""What `serve --address` takes down, what it refuses to replace, and how a Ray of our own is started."""

import io
import os
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.cli.main import main
from cluster.config import ClusterConfig, config_from
from cluster.processes.service_registry import Announcement
from cluster.processes.signals import Interrupts
from tests.unit.cluster.launch.fake_serve import NAME, FakeClaims, FakeRay, FakeServe, joined, on

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from ray.serve.config import ControllerOptions

    from cluster.processes.process import ray_settings
    from cluster.serve import application_watch, deployments, ray_start
    from cluster.serve.application_watch import ApplicationWatch
    from cluster.serve.deployments import deploy
    from cluster.serve.launcher import Launcher
    from cluster.serve.ray_start import StartError


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start.os, "environ", dict(os.environ))


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


def test_a_replica_that_hangs_is_given_up_within_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve gives one up that misses three checks in a row; a check begins a period after the one before."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(deployments.serve, "deployment", lambda **given: options.update(given) or (lambda _: None))
    deploy(object, ClusterConfig().cluster, name="Shard-0")
    period, limit = options["health_check_period_s"], options["health_check_timeout_s"]
    assert 1.1 * period + 3 * (limit + 0.05) <= 5.0
    assert ray_settings({})["RAY_kill_worker_timeout_milliseconds"] == "1000"


def test_its_replacement_starts_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until Ray has killed it, it keeps the CPU that it was given."""
    ray, seen = FakeRay(refuses="it is enough to see how it starts"), dict[str, Any]()
    monkeypatch.setattr(ray, "init", lambda **options: seen.update(options))
    config = config_from({"experts": {"shards": 9}, "cluster": {"routers": 7}, "weights": {"resident": "dequantized"}})
    with pytest.raises(RuntimeError, match="Serve fails"), joined(monkeypatch, FakeServe(), ray, config) as one:
        one.up(Interrupts())
    assert seen["num_cpus"] >= 9 + 7 + 1


def test_serve_on_a_ray_that_is_joined_does_not_wait_for_a_replica_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    serve, seen = FakeServe(), dict[str, Any]()
    monkeypatch.setattr(serve, "start", lambda **options: seen.update(options))
    with pytest.raises(RuntimeError, match="Serve fails"), joined(monkeypatch, serve, FakeRay(), on("auto")) as one:
        one.up(Interrupts())
    given = ControllerOptions(**seen["controller_options"]).runtime_env or {}
    assert given["env_vars"]["RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS"] == "1"
