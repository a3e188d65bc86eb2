"""A process that has compiled a checkpoint's chat templates. It is killed if it takes too long to answer."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import Any

from router_service.text.templates.wire import receive, send

WORKER = "router_service.text.templates.worker"
# The worker limits its own CPU time. This limits the wall time, for one that waits instead of computing.
START_SECONDS = 30.0
# A template is untrusted, and the rest of our environment may contain secrets.
INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "TZ", "LANG", "LC_ALL", "LC_TIME")


class TemplateError(ValueError):
    """The template cannot be compiled or rendered within the limits."""


class TemplateWorker:
    """A running process. It ends with this object."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        """Start it and compile: `setup` has the templates' sources and the special tokens.

        Raises:
            TemplateError: a template does not compile.
        """
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
            good(self.ask(dict(setup), START_SECONDS))
        except TemplateError:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
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


def good(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that is no error.

    Raises:
        TemplateError: it is one.
    """
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
