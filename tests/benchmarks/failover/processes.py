"""The processes of a cluster that `expertmesh serve` has started, found by what Ray calls them."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.server import Server

# Ray names a replica's process after its application and deployment, an actor's after its class.
SHARD = re.compile(r"^ray::ServeReplica:[^:]*:Shard-(\d+)")
ROUTER = re.compile(r"^ray::ServeReplica:[^:]*:Router")
FRONT = re.compile(r"^ray::ServeReplica:[^:]*:Front")
REGISTRY = re.compile(r"^ray::ServiceRegistry")
CONTROLLER = re.compile(r"^ray::ServeController")


def found(server: Server, what: re.Pattern[str]) -> list[int]:
    """The living processes of that kind, the oldest first."""
    return sorted(pid for pid in server.descendants() if what.match(_title(pid)))


def shards(server: Server) -> dict[int, int]:
    """The process of each shard; of two, the younger."""
    pids = sorted(server.descendants())
    return {int(match[1]): pid for pid in pids if (match := SHARD.match(_title(pid)))}


def kill(pid: int) -> None:
    """End a process without a word; one that is gone already is no fault."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process still within the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it was replaced meanwhile
            os.kill(pid, signal.SIGCONT)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""
