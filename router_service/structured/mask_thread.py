"""Takes drawn tokens in and finds the next masks on a thread of its own, while the next forward runs."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from router_service.structured.matcher import Matcher

log = logging.getLogger(__name__)


class MaskThread:
    """Advances the matchers of one engine. Started with the first one; all methods are for the engine's thread."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None

    def advance(self, drawn: Sequence[tuple[Matcher, int]]) -> None:
        """Let each matcher take its token in; nobody may use them before `wait`."""
        if drawn:
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="masks")
            self._last = self._pool.submit(_advance_all, list(drawn))

    def wait(self) -> float:
        """Wait until all that was handed in is done; return the seconds that it took."""
        if self._last is None:
            return 0.0
        begun = time.perf_counter()
        self._last.result()
        self._last = None
        return time.perf_counter() - begun


def _advance_all(drawn: Sequence[tuple[Matcher, int]]) -> None:
    for matcher, token in drawn:
        try:
            matcher.advance(token)
        except Exception as error:  # it must not take the others with it
            log.exception("a grammar could not go on")
            matcher.error = f"{type(error).__name__}: {error}"
