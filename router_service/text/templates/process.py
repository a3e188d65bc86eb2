"""Runs a chat template in a process of its own. It is killed if it takes too long, and restarted on the next use."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from router_service.text.templates.wire import receive, send

WORKER = "router_service.text.templates.worker"
# The worker limits its own CPU time. These limit the wall time, for a worker that waits instead of computing.
RENDER_SECONDS = 10.0
START_SECONDS = 30.0
# A template is untrusted, and the rest of our environment may contain secrets.
INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "TZ", "LANG", "LC_ALL", "LC_TIME")


class TemplateError(ValueError):
    """The template cannot be compiled or rendered within the limits."""


class TemplateProcess:
    """Compiles a template and renders messages with it, one request at a time (any thread)."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Start the process and compile.

        Raises:
            TemplateError: the template does not compile.
        """
        self._setup = {"source": source, "special_tokens": dict(special_tokens)}
        # Requests render on several threads, and the process replies to one message at a time.
        self._lock = threading.Lock()
        self._worker: _Worker | None = _Worker(self._setup)

    @property
    def pid(self) -> int | None:
        """The process, None where the last one has been ended and the next messages start another."""
        worker = self._worker
        return None if worker is None else worker.pid

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the text of `messages`.

        Raises:
            TemplateError: the template rejects them, or exceeds the limits.
        """
        with self._lock:
            worker, self._worker = self._worker or _Worker(self._setup), None
            answer = worker.ask({"messages": messages}, RENDER_SECONDS)
            self._worker = worker  # a worker that did not reply has been ended, and is not kept
        return _good(answer).get("text", "")


class _Worker:
    """A running process that has compiled the template. It ends with this object."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self._link, theirs = socket.socketpair()
        with theirs:
            # A process group of its own, so that Ctrl-C in a terminal reaches only us.
            self._process = subprocess.Popen(
                [sys.executable, "-m", WORKER],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=_environment(),
                process_group=0,
            )
        self.end = weakref.finalize(self, _end, self._process, self._link)
        try:
            _good(self.ask(dict(setup), START_SECONDS))
        except TemplateError:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, str]:
        """Return the reply to a request.

        Raises:
            TemplateError: no reply in time, or the process has ended. It is ended in any case.
        """
        try:
            self._link.settimeout(seconds)
            send(self._link, question)
            return receive(self._link, seconds)
        except TimeoutError:
            self.end()
            raise TemplateError(f"it takes more than {seconds:g} s") from None
        except ValueError as error:
            self.end()
            raise TemplateError(str(error)) from error
        except (EOFError, OSError) as error:
            raise TemplateError(self._why(error)) from error

    def _why(self, error: Exception) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.returncode
        self.end()
        if code == -signal.SIGXCPU:
            return "it takes more than 1 s of processor time"
        return f"its process ended (exit code {code}): {error}"


def _good(answer: dict[str, str]) -> dict[str, str]:
    if "error" in answer:
        raise TemplateError(answer["error"])
    return answer


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    # Our packages may come from a changed sys.path, which a new interpreter does not inherit.
    return kept | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def _end(process: "subprocess.Popen[bytes]", link: socket.socket) -> None:
    link.close()
    process.kill()
    process.wait()
