"""What happens where a program is not installed."""

import os
import shutil
import subprocess

import pytest

from tests.support import packages


def test_it_is_installed_where_that_is_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[tuple[str, ...]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if installed or name == "apt-get" else None)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: installed.append(tuple(command)))
    assert packages.program("promtool", "prometheus") == "/bin/promtool"
    assert installed == [(*packages.INSTALL, "prometheus")]


def test_a_test_is_skipped_with_the_reason_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(pytest.skip.Exception, match="promtool is not installed"):
        packages.program("promtool", "prometheus")


def test_an_installation_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: object, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(str(command), timeout)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(pytest.skip.Exception, match="promtool is not installed"):
        packages.program("promtool", "prometheus")
