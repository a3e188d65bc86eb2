"""Several processes of the same templates, so that a slow conversation does not hold up the others."""

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from router_service.text.templates.process import TemplateWorker, good

# Of wall time; the process limits its own processor time.
RENDER_SECONDS = 10.0
# A process has about 25 MiB. At least two, so that one conversation cannot take all.
MIN_PROCESSES, MAX_PROCESSES = 2, 4

Result = TypeVar("Result")


class TemplatePool:
    """Asks template processes, at most `size` at the same time. They are started when needed, and kept."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str], size: int | None = None) -> None:
        """Start the first process and compile; `sources` are the templates by name.

        Raises:
            TemplateError: a template does not compile.
        """
        self._setup = {"sources": dict(sources), "special_tokens": dict(special_tokens)}
        self.size = size or min(MAX_PROCESSES, max(MIN_PROCESSES, os.cpu_count() or 1))
        self._lock = threading.Lock()
        self._places = threading.Semaphore(self.size)
        self._idle = [TemplateWorker(self._setup)]
        self._threads = ThreadPoolExecutor(self.size, "template")
        weakref.finalize(self, self._threads.shutdown, wait=False)

    @property
    def pids(self) -> list[int]:
        """The processes that wait for work."""
        with self._lock:
            return [worker.pid for worker in self._idle]

    def submit(self, work: Callable[[], Result]) -> "Future[Result]":
        """Run `work`, which asks, on one of as many threads as there are processes; until then it can be cancelled."""
        return self._threads.submit(work)

    def ask(self, question: Mapping[str, Any], seconds: float = RENDER_SECONDS) -> dict[str, Any]:
        """Return the answer to a question of `worker.py`. Blocks while all processes are busy. Any thread may call.

        Raises:
            TemplateError: the template rejects it, or exceeds the limits.
        """
        with self._places:
            worker = self._taken() or TemplateWorker(self._setup)
            # One that does not answer has been ended, and is not kept.
            answer = worker.ask(dict(question), seconds)
            with self._lock:
                self._idle.append(worker)
        return good(answer)

    def _taken(self) -> TemplateWorker | None:
        with self._lock, contextlib.suppress(IndexError):
            return self._idle.pop()
        return None
