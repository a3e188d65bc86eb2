"""Requests whose answers must have a form: grammars are compiled, and masks made, off the engine's thread."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from experts.host.log import fields
from router_service.engine.request import Request
from router_service.protocol.messages import StreamFailure
from router_service.structured.grammar import GrammarError
from router_service.structured.grammars import Grammars, NoTokenizerError
from router_service.structured.mask_thread import MaskThread
from router_service.structured.matcher import Matcher

log = logging.getLogger(__name__)

COMPILING_THREADS = 2
FIELD = "sampling.structured"
Opened = tuple[Request, Matcher | StreamFailure]


@dataclass(slots=True)
class ConstraintFigures:
    """Tokens drawn by a grammar, seconds that the engine waited for masks, seconds that grammars took to compile."""

    tokens: int = 0
    mask_wait_seconds: float = 0.0
    compile_seconds: float = 0.0


class Constraints:
    """Used on the engine's thread. A request has its matcher once `opened` has returned it.

    Args:
        grammars: None refuses what must have a form, as without a tokenizer.
    """

    def __init__(self, grammars: Grammars | None = None) -> None:
        self.figures = ConstraintFigures()
        self._grammars = grammars
        self._masks = MaskThread()
        self._pool: ThreadPoolExecutor | None = None
        self._compiling = 0
        self._opened: deque[tuple[Opened, float]] = deque()
        self._on_opened: Callable[[], None] = lambda: None

    @property
    def compiling(self) -> bool:
        """Whether some request's grammar is being compiled, or waits to be taken from `opened`."""
        return self._compiling > 0

    def on_opened(self, call: Callable[[], None]) -> None:
        """Let `call` be called, on another thread, whenever `opened` has something."""
        self._on_opened = call

    def begin(self, request: Request) -> None:
        """Begin to compile a request's grammar."""
        self._pool = self._pool or ThreadPoolExecutor(COMPILING_THREADS, thread_name_prefix="grammars")
        self._compiling += 1
        self._pool.submit(self._open, request, request.tokens[request.prompt_length :])

    def opened(self) -> Iterator[Opened]:
        """Take the requests whose grammars are compiled, with their matchers, or why they have none."""
        while self._opened:
            found, seconds = self._opened.popleft()
            self._compiling -= 1
            self.figures.compile_seconds += seconds
            yield found

    def settle(self, requests: Iterable[Request]) -> None:
        """Wait until the masks of these are made, which takes no time where the forward took longer."""
        if any(request.row.matcher is not None for request in requests):
            self.figures.mask_wait_seconds += self._masks.wait()

    def advance(self, drawn: Sequence[tuple[Request, int]]) -> None:
        """Note the tokens that were drawn. Waits for those whose answer may end by itself."""
        pairs = [(request.row.matcher, token) for request, token in drawn if request.row.matcher is not None]
        self.figures.tokens += len(pairs)
        self._masks.advance(pairs)
        if any(matcher.ends_itself for matcher, _ in pairs):
            self.figures.mask_wait_seconds += self._masks.wait()

    def _open(self, request: Request, generated: list[int]) -> None:
        begun = time.perf_counter()
        matcher = self._matcher(request, generated)
        self._opened.append(((request, matcher), time.perf_counter() - begun))
        self._on_opened()

    def _matcher(self, request: Request, generated: list[int]) -> Matcher | StreamFailure:
        params = request.params
        assert params.structured is not None
        try:
            if self._grammars is None:
                raise NoTokenizerError("the router has no tokenizer")
            return self._grammars.open(params.structured, generated, params.ignore_eos)
        except GrammarError as error:
            return StreamFailure("INVALID_ARGUMENT", f"{FIELD}: {error}")
        except NoTokenizerError as error:
            log.exception("an answer of a given form was asked for", extra=fields(request_id=request.request_id))
            return StreamFailure("FAILED_PRECONDITION", f"{FIELD}: {error}")
        except Exception as error:
            log.exception("a grammar could not be compiled", extra=fields(request_id=request.request_id))
            return StreamFailure("INTERNAL", f"{FIELD}: the router cannot compile it ({type(error).__name__})")
