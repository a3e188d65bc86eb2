"""A real server as a user starts it: the `expertmesh serve` command in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

READY = re.compile(r"ready grpc=(\S+) metrics=(\S+)")
START_SECONDS = 150.0
STOP_SECONDS = 120.0
ROUTER = re.compile(r"router: ready, .*\(pid (\d+)\)")


@dataclass
class Server:
    """A started server; `target` and `metrics` come from its ready line."""

    process: "subprocess.Popen[bytes]"
    target: str
    metrics: str
    log: Path

    def descendants(self) -> set[int]:
        """Processes that it has started, at any depth."""
        return descendants_of(self.process.pid)

    def router(self) -> int:
        """The process of its router, or of the last to be ready of several."""
        return int(ROUTER.findall(self.log.read_text())[-1])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def held(pid: int) -> Iterator[None]:
    """Hold a process still within the block: what a router generates does not end while something is done to it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def serving(
    *args: str, log: Path, variables: Mapping[str, str] | None = None, paths: Sequence[Path] = ()
) -> Iterator[Server]:
    """Run `expertmesh serve ARGS` until the block ends; what it prints goes to `log`.

    All processes of a Ray that it starts have the further environment variables, and `paths` in front of PYTHONPATH.
    """
    surroundings = environment() | dict(variables or {})
    surroundings["PYTHONPATH"] = os.pathsep.join([*map(str, paths), surroundings["PYTHONPATH"]])
    command = [sys.executable, "-m", "cluster.cli.main", "serve", *args]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=surroundings
        )
    family: set[int] = set()
    try:
        target, metrics = _await_ready(process, log)
        family = descendants_of(process.pid)
        yield Server(process, target, metrics, log)
    finally:
        _end(process, family)


def environment() -> dict[str, str]:
    """The environment of a user's shell, with this checkout importable."""
    root = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}


def descendants_of(pid: int) -> set[int]:
    """All processes below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = set[int](), [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found.update(below)
        todo += below
    return found


def kill(pids: set[int]) -> None:
    """End what still lives of `pids`."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def gone(pids: set[int], seconds: float = 60.0) -> set[int]:
    """Wait until none of `pids` lives; return those that still do."""
    deadline = time.monotonic() + seconds
    while (alive := {pid for pid in pids if alive_process(pid)}) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive


def alive_process(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _parent(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _await_ready(process: "subprocess.Popen[bytes]", log: Path) -> tuple[str, str]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if match := READY.search(log.read_text()):
            return match[1], match[2]
        time.sleep(0.1)
    raise AssertionError(f"no ready line (exit {process.poll()}): {log.read_text()[-4000:]}")


def _end(process: "subprocess.Popen[bytes]", family: set[int]) -> None:
    family |= descendants_of(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
    kill(gone(family))
