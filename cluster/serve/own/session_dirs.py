"""The folders in which each Ray keeps its logs and sockets: those of our own Rays go with them.

Ray removes none. A folder gets a file that says whose Ray it is: nobody else's is ever touched.
"""

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

MARKER = "expertmesh.json"
# Logs of a Ray that failed; whoever wants them has looked by then.
KEEP_SECONDS = 7 * 24 * 3600.0


def ray_root() -> Path:
    """Where Ray makes its folders unless told otherwise."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def mark(session: Path, *, kept: bool = False) -> None:
    """Write down that the folder is of this process's Ray; `kept` lets it outlive that, for its logs."""
    with contextlib.suppress(OSError):  # a full disk is no reason not to serve
        (session / MARKER).write_text(json.dumps(_this_process() | {"kept": kept}))


def sweep(root: Path) -> None:
    """Remove the folders of our Rays whose process has died, such as by kill -9."""
    for session in root.glob("session_*"):
        owner = _owner(session)
        if owner is not None and not _alive(owner) and not (owner["kept"] and _age(session) < KEEP_SECONDS):
            remove(session)


def remove(session: Path) -> None:
    """Remove a folder, and the link to the latest one if it led there."""
    shutil.rmtree(session, ignore_errors=True)
    latest = session.parent / "session_latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)


def sessions_here(root: Path) -> Iterator[Path]:
    """The folders that this process's Ray has made, of a start that failed half-way as well: they end in its pid."""
    begun = psutil.Process().create_time()
    for session in root.glob(f"session_*_{os.getpid()}"):
        with contextlib.suppress(OSError):
            if session.is_dir() and not session.is_symlink() and session.stat().st_ctime >= begun:
                yield session


def kept_here(root: Path) -> list[Path]:
    """Let the logs of this process's Ray stay for a week; return the folders of which that was not known before."""
    found = [session for session in sessions_here(root) if not _is_kept(session)]
    for session in found:
        mark(session, kept=True)
    return found


def mark_here(root: Path) -> None:
    """Mark what this process's Ray has made."""
    for session in sessions_here(root):
        if not _is_kept(session):
            mark(session)


def remove_here(root: Path) -> None:
    """Remove what this process's Ray has left, but for what was to be kept of a start that failed before."""
    for session in sessions_here(root):
        if not _is_kept(session):
            remove(session)


def _this_process() -> dict[str, Any]:
    """A process's number means something only in its namespace, on its machine, until the number is used again."""
    process = psutil.Process()
    namespace = os.readlink("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "ns": namespace, "pid": process.pid, "begun": process.create_time()}


def _owner(session: Path) -> dict[str, Any] | None:
    """What a folder of ours says; None for those of others."""
    try:
        if session.is_symlink() or session.stat().st_uid != os.getuid():
            return None
        owner: dict[str, Any] = json.loads((session / MARKER).read_text())
        return owner if {"host", "ns", "pid", "begun", "kept"} <= owner.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _is_kept(session: Path) -> bool:
    owner = _owner(session)
    return owner is not None and bool(owner["kept"])


def _alive(owner: dict[str, Any]) -> bool:
    """Whether the process runs, or may: of another machine's or container's nothing is known here."""
    here = _this_process()
    if (owner["host"], owner["ns"]) != (here["host"], here["ns"]):
        return True
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(owner["pid"]).create_time() == owner["begun"])
    return False


def _age(session: Path) -> float:
    try:
        return time.time() - (session / MARKER).stat().st_mtime
    except OSError:
        return 0.0
