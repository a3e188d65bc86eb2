"""llguidance and xgrammar beside each other: seconds to compile, and to make the masks of 16 answers."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, Protocol

import numpy as np

from router_service.protocol.messages import Structured
from router_service.structured.grammar import compiled
from router_service.structured.vocabulary import TokenSource
from tests.benchmarks.structured.cases import compact

BATCH = 16
LIMIT_S = 20.0
Ids = list[int]


class Library(Protocol):
    """Compiles a schema for one vocabulary, and makes masks of it."""

    def compile(self, schema: str) -> Callable[[], Any]:
        """Return what makes a new matcher."""

    def fill(self, matchers: Sequence[Any], masks: "np.ndarray[Any, np.dtype[np.int32]]") -> None:
        """Fill a row for each matcher."""

    def consume(self, matchers: Sequence[Any], id: int) -> None:
        """Take a token in."""


class Llguidance:
    """As the engine uses it, without its cache and with one thread."""

    def __init__(self, tokens: list[bytes]) -> None:
        from llguidance import LLExecutor

        self.source = TokenSource(tokens, [0], [0])
        self._executor = LLExecutor(1)

    def compile(self, schema: str) -> Callable[[], Any]:
        """Return what makes a new matcher."""
        return compiled(Structured("json_schema", schema), self.source.vocabulary).deep_copy

    def fill(self, matchers: Sequence[Any], masks: "np.ndarray[Any, np.dtype[np.int32]]") -> None:
        """Fill a row for each matcher."""
        places = [(matcher, place) for place, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(places, masks.ctypes.data, masks.shape[1] * 4, len(masks))

    def consume(self, matchers: Sequence[Any], id: int) -> None:
        """Take a token in."""
        if not all(self._executor.consume_token_par([(matcher, id) for matcher in matchers])):
            raise RuntimeError(f"llguidance does not allow token {id}")


class Xgrammar:
    """With one thread too, and any white space."""

    def __init__(self, tokens: list[bytes]) -> None:
        # By its name: nobody needs it installed, not even to check types.
        xgrammar: Any = import_module("xgrammar")
        info = xgrammar.TokenizerInfo(tokens, vocab_size=len(tokens), stop_token_ids=[0])
        self._library = xgrammar
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._batch = xgrammar.BatchGrammarMatcher(max_threads=1)

    def compile(self, schema: str) -> Callable[[], Any]:
        """Return what makes a new matcher."""
        made = self._compiler.compile_json_schema(schema, strict_mode=False)
        return lambda: self._library.GrammarMatcher(made)

    def fill(self, matchers: Sequence[Any], masks: "np.ndarray[Any, np.dtype[np.int32]]") -> None:
        """Fill a row for each matcher."""
        self._batch.batch_fill_next_token_bitmask(list(matchers), masks)

    def consume(self, matchers: Sequence[Any], id: int) -> None:
        """Take a token in."""
        if not all(self._batch.batch_accept_token(list(matchers), [id] * len(matchers))):
            raise RuntimeError(f"xgrammar does not allow token {id}")


LIBRARIES: dict[str, Callable[[list[bytes]], Library]] = {"llguidance": Llguidance, "xgrammar": Xgrammar}


def measure(name: str, tokens: list[bytes], schema: dict[str, Any], answer: Any, rounds: int) -> dict[str, float]:
    """Milliseconds: `compile`, the median `mask` of a step of 16 answers and the `worst`, all tokens taken in."""
    library, times = LIBRARIES[name](tokens), []
    ids = TokenSource(tokens, [0], [0])(compact(answer))
    masks = np.zeros((BATCH, (len(tokens) + 31) // 32), dtype=np.int32)
    begun = time.perf_counter()
    make = library.compile(compact(schema))
    compiling = time.perf_counter() - begun
    for _ in range(rounds):
        matchers = [make() for _ in range(BATCH)]
        for id in ids:
            begun = time.perf_counter()
            library.fill(matchers, masks)
            times.append(time.perf_counter() - begun)
            library.consume(matchers, id)
    return {"compile": 1e3 * compiling, "mask": 1e3 * median(times), "worst": 1e3 * max(times)}


def compiling(name: str, tokens: list[bytes], schema: dict[str, Any]) -> str:
    """Milliseconds to compile and make the first mask, in a process that may take `LIMIT_S`; or what became of it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_compile, args=(theirs, name, tokens, compact(schema)))
    process.start()
    theirs.close()
    try:
        return str(ours.recv()) if ours.poll(LIMIT_S) else f"over {LIMIT_S:g} s"
    except EOFError:
        return "its process died"
    finally:
        process.kill()
        process.join()


def _compile(link: Connection, name: str, tokens: list[bytes], schema: str) -> None:
    library = LIBRARIES[name](tokens)
    library.compile('{"type": "object"}')
    begun = time.perf_counter()
    try:
        masks = np.zeros((1, (len(tokens) + 31) // 32), dtype=np.int32)
        library.fill([library.compile(schema)()], masks)
    except Exception as error:
        link.send(f"refused ({str(error).splitlines()[0][:40]})")
    else:
        link.send(f"{1e3 * (time.perf_counter() - begun):.1f}")
