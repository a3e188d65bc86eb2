"""Takes drawn tokens in and finds the next masks on a thread of its own, while the next forward runs."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from experts.host.cores import usable_cores
from router_service.structured.matcher import Matcher

if TYPE_CHECKING:
    from llguidance import LLExecutor

log = logging.getLogger(__name__)

Drawn = Sequence[tuple[Matcher, int]]
# Beside the model, which needs the other cores.
MOST_THREADS = 8
CORES_PER_THREAD = 4


class MaskThread:
    """Advances the matchers of one engine. Started with the first one; all methods are for the engine's thread."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None
        self._executor: LLExecutor | None = None

    def advance(self, drawn: Drawn) -> None:
        """Let each matcher take its token in; nobody may use them before `wait`."""
        if drawn:
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="masks")
            self._last = self._pool.submit(self._advance, drawn)

    def wait(self) -> float:
        """Wait until all that was handed in is done; return the seconds that it took."""
        if self._last is None:
            return 0.0
        begun = time.perf_counter()
        self._last.result()
        self._last = None
        return time.perf_counter() - begun

    def _advance(self, drawn: Drawn) -> None:
        try:
            self._take_in(drawn)
        except Exception as error:  # the others of the step go on
            log.exception("grammars could not go on")
            for matcher, _ in drawn:
                matcher.error = f"the router cannot go on with it ({type(error).__name__})"

    def _take_in(self, drawn: Drawn) -> None:
        """All at once: each call that lets other threads run meanwhile has to wait for its turn again."""
        if self._executor is None:
            from llguidance import LLExecutor

            self._executor = LLExecutor(max(1, min(MOST_THREADS, usable_cores() // CORES_PER_THREAD)))
        self._executor.consume_token_par([(matcher.own, token) for matcher, token in drawn])
        masks = np.zeros((len(drawn), drawn[0][0].mask_bytes), dtype=np.uint8)
        places = [(matcher.own, place) for place, (matcher, _) in enumerate(drawn)]
        self._executor.unsafe_compute_mask_ptr(places, masks.ctypes.data, masks.shape[1], len(drawn))
        for (matcher, _), mask in zip(drawn, masks, strict=True):
            matcher.take(mask)
