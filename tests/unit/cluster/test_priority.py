"""Processes on a Ray that others started behind everything else: they change it, or say what to do."""

import os
from pathlib import Path

import pytest

from cluster.processes.priority import take_normal_priority


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    for number in (70, 71, 99):
        (tmp_path / str(number)).mkdir()
    return tmp_path


def nice(monkeypatch: pytest.MonkeyPatch, niceness: int, allowed: bool = True) -> set[tuple[int, int]]:
    """Pretend to run at this niceness; what is set."""
    changed = set[tuple[int, int]]()

    def change(which: int, task: int, value: int) -> None:
        assert which == os.PRIO_PROCESS
        if task == 99:
            raise ProcessLookupError
        if not allowed:
            raise PermissionError
        changed.add((task, value))

    monkeypatch.setattr(os, "getpriority", lambda *_: niceness)
    monkeypatch.setattr(os, "setpriority", change)
    return changed


def test_every_thread_that_is_still_there_gets_it(
    monkeypatch: pytest.MonkeyPatch, tasks: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = nice(monkeypatch, 15)
    take_normal_priority({}, tasks)
    assert changed == {(70, 0), (71, 0)}
    assert caplog.text == ""


def test_who_may_not_says_so(monkeypatch: pytest.MonkeyPatch, tasks: Path, caplog: pytest.LogCaptureFixture) -> None:
    nice(monkeypatch, 15, allowed=False)
    take_normal_priority({}, tasks)
    assert "runs at nice 15" in caplog.text
    assert "RAY_worker_niceness=0" in caplog.text


@pytest.mark.parametrize(("niceness", "given"), [(0, {}), (-5, {}), (7, {"RAY_worker_niceness": "7"})])
def test_what_is_well_or_chosen_stays(
    monkeypatch: pytest.MonkeyPatch, tasks: Path, niceness: int, given: dict[str, str]
) -> None:
    changed = nice(monkeypatch, niceness)
    take_normal_priority(given, tasks)
    assert changed == set()
