"""Finds out in a process of its own whether a grammar compiles. The process is ended if it takes too long."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import weakref
from typing import Any

from router_service.protocol.messages import Structured
from router_service.structured.check_worker import CPU_SECONDS, MEMORY_BYTES
from router_service.text.templates.wire import receive, send

WORKER = "router_service.structured.check_worker"
# The worker limits its own CPU time. These limit the wall time, for a machine that lets it wait.
CHECK_SECONDS = 10.0
START_SECONDS = 30.0
# What callers send must not find our secrets, should they ever get that far.
INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME")


class CheckProcess:
    """Checks one grammar at a time. Starts with the first one, and anew after one that ended it.

    Args:
        setup: the vocabulary, see `check_worker.main`.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._worker: _Worker | None = None

    @property
    def pid(self) -> int | None:
        """The process, None while there is none."""
        return None if self._worker is None else self._worker.process.pid

    def check(self, structured: Structured) -> str:
        """Return why no answer can have this form, "" if answers can. Blocks for some seconds at most.

        Raises:
            OSError: the process cannot be started.
        """
        # One that does not reply has ended, and is not kept.
        worker, self._worker = self._worker or _Worker(self._setup), None
        try:
            error: str = worker.ask({"kind": structured.kind, "text": structured.text}, CHECK_SECONDS)["error"]
        except TimeoutError:
            worker.end()
            return f"takes more than {CHECK_SECONDS:g} s to compile"
        except ValueError as problem:
            worker.end()
            return str(problem)
        except (EOFError, OSError):
            return worker.why()
        self._worker = worker
        return error


class _Worker:
    """A running process that has the vocabulary. It ends with this object."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._link, theirs = socket.socketpair()
        with theirs:
            # A process group of its own, so that Ctrl-C in a terminal reaches only us. What the library prints when it
            # gives up has parts of what callers send.
            self.process = subprocess.Popen(
                [sys.executable, "-m", WORKER],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                process_group=0,
            )
        self.end = weakref.finalize(self, _end, self.process, self._link)
        try:
            self.ask(setup, START_SECONDS)
        except (EOFError, TimeoutError) as error:
            self.end()
            raise OSError(f"the process that checks grammars does not start: {error}") from error

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        self._link.settimeout(seconds)
        send(self._link, question)
        return receive(self._link, seconds)

    def why(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        code = self.process.returncode
        self.end()
        if code == -signal.SIGXCPU:
            return f"takes more than {CPU_SECONDS} s of processor time to compile"
        return f"cannot be compiled in {MEMORY_BYTES >> 20} MiB of memory, or nests or recurs too deeply"


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    # One thread: a library's pool of them would take from the memory that the limit leaves.
    kept |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    # Our packages may come from a changed sys.path, which a new interpreter does not inherit.
    return kept | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def _end(process: "subprocess.Popen[bytes]", link: socket.socket) -> None:
    link.close()
    process.kill()
    process.wait()
