"""Which of Ray's folders are removed: those of our own Rays that have ended, and nobody else's."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.serve.own import session_dirs
    from cluster.serve.own.session_dirs import (
        KEEP_SECONDS,
        MARKER,
        kept_here,
        mark,
        mark_here,
        ray_root,
        remove_here,
        sweep,
    )


def session(root: Path, name: str, **said: Any) -> Path:
    """A folder of ours, of which the marker says something else than the truth."""
    made = root / f"session_{name}"
    (made / "logs").mkdir(parents=True)
    mark(made)
    marker = made / MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text()) | said))
    return made


def test_those_of_dead_clusters_are_swept_and_nobody_elses(tmp_path: Path) -> None:
    dead = [session(tmp_path, "a", begun=1.0), session(tmp_path, "b", pid=1 << 22)]
    alive = session(tmp_path, "c")
    elsewhere = [session(tmp_path, "d", host="other", begun=1.0), session(tmp_path, "e", ns="pid:[1]", begun=1.0)]
    strangers = [tmp_path / "session_f", tmp_path / "session_g", tmp_path / "other"]
    for one in strangers:
        one.mkdir()
    (strangers[1] / MARKER).write_text("no JSON")
    (tmp_path / "session_latest").symlink_to(dead[0])
    sweep(tmp_path)
    assert sorted(one for one in tmp_path.iterdir()) == sorted([alive, *elsewhere, *strangers])
    assert not (tmp_path / "session_latest").is_symlink()


def test_one_that_is_linked_to_is_not_followed(tmp_path: Path) -> None:
    elsewhere = session(tmp_path / "elsewhere", "a", begun=1.0)
    (tmp_path / "session_b").symlink_to(elsewhere)
    sweep(tmp_path)
    assert elsewhere.is_dir()


def test_anothers_users_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = session(tmp_path, "a", begun=1.0)
    monkeypatch.setattr(session_dirs.os, "getuid", lambda: os.geteuid() + 1)
    sweep(tmp_path)
    assert dead.is_dir()


def test_logs_of_a_failure_stay_for_a_week(tmp_path: Path) -> None:
    ours = session(tmp_path, f"x_{os.getpid()}")
    assert kept_here(tmp_path) == [ours]
    assert kept_here(tmp_path) == [], "said once"
    mark_here(tmp_path)
    remove_here(tmp_path)
    assert ours.is_dir(), "the next try of the same process does not remove them"
    marker = ours / MARKER
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"begun": 1.0}))
    sweep(tmp_path)
    assert ours.is_dir()
    then = marker.stat().st_mtime - KEEP_SECONDS - 1
    os.utime(marker, (then, then))
    sweep(tmp_path)
    assert not ours.exists()


def test_a_start_that_broke_off_is_known_by_its_process(tmp_path: Path) -> None:
    """The signal may come before anything could be written there."""
    ours, others = tmp_path / f"session_x_{os.getpid()}", tmp_path / f"session_x_{os.getpid()}0"
    for one in (ours, others):
        one.mkdir()
    remove_here(tmp_path)
    assert list(tmp_path.iterdir()) == [others]


@pytest.mark.parametrize(
    ("variables", "root"),
    [({}, "/tmp/ray"), ({"TMPDIR": "/a"}, "/a/ray"), ({"TMPDIR": "/a", "RAY_TMPDIR": "/b"}, "/b/ray")],
)
def test_it_looks_where_ray_makes_them(variables: dict[str, str], root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(ray_root()) == root
    with warnings.catch_warnings(action="ignore"):
        from ray._common.utils import get_default_ray_temp_dir
    assert get_default_ray_temp_dir() == root
