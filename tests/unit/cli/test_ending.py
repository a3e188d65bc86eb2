"""How `serve` ends when a signal comes early, and how it starts again when Ray failed."""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.cli.main import main
from cluster.cli.serve import ending, serve_command
from cluster.cli.serve.ending import TRIES, TRY_VARIABLE, start_again
from cluster.processes.signals import REPEAT_SECONDS, Interrupts

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.serve.launcher import Launcher
    from cluster.serve.own.ray_watch import RayLostError
    from cluster.serve.ray_start import RayFailedError

SERVE = ["serve", "--grpc-port", "0", "--metrics-port", "0"]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


class Replaced(BaseException):
    """This process would be another now."""


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """The programs that took this one's place, with their number."""
    seen: list[tuple[list[str], str]] = []

    def replace(_: str, arguments: list[str], environment: dict[str, str]) -> None:
        seen.append((arguments, environment[TRY_VARIABLE]))
        raise Replaced

    monkeypatch.setattr(ending.os, "execve", replace)
    monkeypatch.setattr(ending.sys, "orig_argv", ["python", "-m", "cluster.cli.main", "serve"])
    return seen


def test_a_ray_that_failed_is_tried_again_and_no_signal_is_lost_meanwhile(
    replaced: list[tuple[list[str], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    interrupts = Interrupts()
    with pytest.raises(Replaced):
        start_again("cannot start Ray", interrupts)
    assert replaced == [([sys.executable, "-m", "cluster.cli.main", "serve"], "2")]
    assert capsys.readouterr().err == "expertmesh: cannot start Ray; trying again (2 of 3)\n"
    signal.raise_signal(signal.SIGTERM)  # it comes just now
    assert interrupts()
    assert Interrupts()(), "the next try hears of it"


def test_the_last_try_is_one_line_and_exit_code_1(
    replaced: list[tuple[list[str], str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRY_VARIABLE, str(TRIES))
    assert start_again("cannot start Ray", Interrupts()) == 1
    assert replaced == []
    assert capsys.readouterr().err == "expertmesh: cannot start Ray; gave up after 3 tries\n"


def test_nothing_is_tried_again_after_a_signal(
    replaced: list[tuple[list[str], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    interrupts = Interrupts()
    signal.raise_signal(signal.SIGINT)
    assert start_again("cannot start Ray", interrupts) == 0
    assert replaced == []
    assert capsys.readouterr().err == "stopping: a signal came before the cluster was ready\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_checks_starts_nothing(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check = serve_command.check_model

    def checked(config: Any) -> Any:
        signal.raise_signal(number)
        return check(config)

    monkeypatch.setattr(serve_command, "check_model", checked)
    monkeypatch.setattr(Launcher, "up", lambda *_: pytest.fail("it starts Ray"))
    assert main(SERVE) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "stopping: a signal came before the cluster was ready"


def test_ray_that_fails_makes_serve_begin_anew(
    replaced: list[tuple[list[str], str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RayFailedError("cannot start or join Ray (local): timed out during startup")

    down: list[int] = []
    monkeypatch.setattr(Launcher, "up", fail)
    monkeypatch.setattr(Launcher, "down", lambda _: down.append(len(replaced)))
    with pytest.raises(Replaced):
        main(SERVE)
    assert down == [0], "what the first try has left ends before the second"
    assert capsys.readouterr().err.endswith("timed out during startup; trying again (2 of 3)\n")


def test_a_ray_that_is_lost_while_it_serves_ends_it_with_a_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def lost(*_: Any) -> None:
        raise RayLostError("Ray's gcs_server is gone: draining and ending now")

    status = {"grpc_port": 1, "metrics_port": 2, "http_port": 3, "ray": "127.0.0.1:4"}
    monkeypatch.setattr(Launcher, "up", lambda *_: status)
    monkeypatch.setattr(Launcher, "drain", lambda _: done.append("drain"))
    monkeypatch.setattr(Launcher, "down", lambda one: done.append(f"down, failed: {one.failed}"))
    monkeypatch.setattr(serve_command, "_wait_for_signal", lost)
    assert main(SERVE) == 1
    assert done == ["drain", "down, failed: True"]
    assert capsys.readouterr().err.splitlines()[-1] == "expertmesh: Ray's gcs_server is gone: draining and ending now"


def test_a_second_signal_stops_all_but_its_repetition_does_not() -> None:
    now = 0.0
    interrupts = Interrupts(lambda: now)
    for _ in range(2):  # to the process, and to its group
        os.kill(os.getpid(), signal.SIGTERM)
    assert interrupts.wait(60.0)
    now = REPEAT_SECONDS + 0.1
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
