"""Ways to harm a process of a cluster, and to find it."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.server import Server

# Of each period a slowed process is stopped for the larger part: its answers come late, it stays alive.
STOPPED_S, RUNNING_S = 0.06, 0.01
# Serve's name of a router's process.
ROUTER_PROCESS = b":Router"


@contextmanager
def slowed(pid: int) -> Iterator[None]:
    """Let a process run for a seventh of the time, as on a node that someone else keeps busy."""
    done = threading.Event()

    def throttle() -> None:
        while not done.is_set():
            os.kill(pid, signal.SIGSTOP)
            done.wait(STOPPED_S)
            os.kill(pid, signal.SIGCONT)
            done.wait(RUNNING_S)

    thread = threading.Thread(target=throttle, name="throttle", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(5)
        os.kill(pid, signal.SIGCONT)


def kill_routers(cluster: Server) -> None:
    """Kill every router's process that there is now, also one that is only starting."""
    for pid in cluster.descendants():
        if ROUTER_PROCESS in _command(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
