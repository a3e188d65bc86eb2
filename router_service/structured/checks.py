"""Whether answers can have a form, found out in bounded time, away from the event loop, and remembered."""

import asyncio
import queue
import threading
from collections import OrderedDict
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from router_service.protocol.messages import Structured
from router_service.structured.check_process import CheckProcess
from router_service.structured.grammar import GrammarError, check_bounds
from router_service.structured.vocabulary import token_bytes
from router_service.text.tokenizer import Tokenizer

PROCESSES = 2
REMEMBERED = 1024
REMEMBERED_BYTES = 16 << 20
WAIT_SECONDS = 20.0


class BusyError(RuntimeError):
    """Too many other grammars are being checked."""


class StructuredChecks:
    """Checks what answers must be, for one model. Used by one event loop; starts with the first check.

    Args:
        vocabulary: how many tokens the model has.
        ends: its end-of-sequence ids.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._ends = list(ends)
        self._found: OrderedDict[Structured, str] = OrderedDict()
        self._bytes = 0
        self._threads = ThreadPoolExecutor(PROCESSES, thread_name_prefix="grammar checks")
        self._processes: queue.SimpleQueue[CheckProcess] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._setup: dict[str, Any] = {}

    async def check(self, structured: Structured) -> None:
        """Check that answers can have this form.

        Raises:
            GrammarError: they cannot, or nobody can tell within the limits.
            BusyError: it was not its turn within `WAIT_SECONDS`.
        """
        check_bounds(structured)
        if (problem := self._found.get(structured)) is None:
            problem = await self._ask(structured)
            self._remember(structured, problem)
        if problem:
            raise GrammarError(problem)

    async def _ask(self, structured: Structured) -> str:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._check, structured)
        except TimeoutError:
            raise BusyError(f"too many other ones are being checked, not its turn within {WAIT_SECONDS:g} s") from None

    def _check(self, structured: Structured) -> str:
        try:
            process = self._processes.get_nowait()
        except queue.Empty:
            process = CheckProcess(self._shared_setup())
        try:
            return process.check(structured)
        finally:
            self._processes.put(process)

    def _shared_setup(self) -> dict[str, Any]:
        with self._starting:
            if not self._setup:
                tokens = [data.hex() for data in token_bytes(self._tokenizer, self._vocabulary)]
                self._setup = {"tokens": tokens, "special": sorted(self._tokenizer.special_ids), "ends": self._ends}
            return self._setup

    def _remember(self, structured: Structured, problem: str) -> None:
        if structured not in self._found:
            self._bytes += len(structured.text)
        self._found[structured] = problem
        self._found.move_to_end(structured)
        while len(self._found) > REMEMBERED or self._bytes > REMEMBERED_BYTES:
            dropped, _ = self._found.popitem(last=False)
            self._bytes -= len(dropped.text)
