"""The grammars of a router's requests: compiled once each, with the tokenizer read when the first one comes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from router_service.protocol.messages import Structured
from router_service.structured.grammar import compiled
from router_service.structured.matcher import Matcher
from router_service.structured.vocabulary import TokenSource, source_of
from router_service.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher

# A grammar's automaton grows while it is used, to some MB.
CACHED_GRAMMARS = 64
CACHED_BYTES = 4 << 20


class NoTokenizerError(RuntimeError):
    """The router cannot read the checkpoint's tokenizer, without which no grammar can be compiled."""


class Grammars:
    """Opens matchers, on any thread.

    Args:
        load: reads the tokenizer.
        vocabulary: how many tokens the model has.
        ends: its end-of-sequence ids.
    """

    def __init__(self, load: Callable[[], Tokenizer], vocabulary: int, ends: Collection[int]) -> None:
        self._load = load
        self._vocabulary = vocabulary
        self._ends = frozenset(id for id in ends if id < vocabulary)
        self._source: TokenSource | None = None
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        self._cache: OrderedDict[Structured, LLMatcher] = OrderedDict()
        self._bytes = 0

    def open(self, structured: Structured, generated: Sequence[int] = (), ignore_eos: bool = False) -> Matcher:
        """Return a matcher behind the tokens that an answer has already. May take a second.

        Raises:
            GrammarError: it does not compile, or does not allow those tokens.
            NoTokenizerError: the tokenizer cannot be read.
        """
        own = self._find(structured).deep_copy()
        matcher = Matcher(own, self._vocabulary, self._ends, ignore_eos)
        matcher.start(generated)
        return matcher

    def _find(self, structured: Structured) -> "LLMatcher":
        with self._lock:
            if (found := self._cache.get(structured)) is not None:
                self._cache.move_to_end(structured)
                return found
        made = compiled(structured, self._tokens().vocabulary)
        with self._lock:
            self._keep(structured, made)
        return made

    def _keep(self, structured: Structured, made: "LLMatcher") -> None:
        if structured not in self._cache:
            self._bytes += len(structured.text)
        self._cache[structured] = made
        while len(self._cache) > CACHED_GRAMMARS or self._bytes > CACHED_BYTES:
            dropped, _ = self._cache.popitem(last=False)
            self._bytes -= len(dropped.text)

    def _tokens(self) -> TokenSource:
        with self._loading:
            if self._source is None:
                self._source = self._read()
            return self._source

    def _read(self) -> TokenSource:
        try:
            return source_of(self._load(), self._vocabulary, self._ends)
        except Exception as error:
            raise NoTokenizerError(f"the router cannot read the model's tokenizer: {error}") from error
