"""What happens where Prometheus is not installed."""

import os
import shutil
import subprocess

import pytest

from tests.dashboards import promtool


def test_it_is_installed_where_that_is_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[tuple[str, ...]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if installed or name == "apt-get" else None)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: installed.append(tuple(command)))
    assert promtool.program("promtool") == "/bin/promtool"
    assert installed == [promtool.INSTALL]


def test_a_test_is_skipped_with_the_reason_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(pytest.skip.Exception, match="promtool is not installed"):
        promtool.program("promtool")
