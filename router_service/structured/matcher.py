"""One answer's place in its grammar. V is the model's vocabulary, in which masks have a bit per token."""

from collections.abc import Collection, Sequence

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from router_service.structured.grammar import GrammarError, reason

Mask = NDArray[np.uint8]
WORD_BYTES = 4


class Matcher:
    """Takes an answer's tokens in, and says which may come next.

    Only one thread may use it at a time, which `MaskThread` sees to. `allowed` has bit `id % 8` of byte `id // 8` set
    for each token that may come next. `complete` says that none may but the end: a caller that cannot draw an
    end-of-sequence token (`ends` is empty, or the request ignores it) ends the answer by that. Once `error` is set,
    the rest says nothing.

    Args:
        matcher: its own, at the start of the grammar.
        vocabulary: V.
        ends: end-of-sequence ids that may be drawn once the grammar is satisfied.
        ends_itself: whether those are never drawn.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: int, ends: Collection[int], ends_itself: bool) -> None:
        self.error = ""
        self.complete = False
        self.ends_itself = ends_itself or not ends
        self._matcher = matcher
        # llguidance writes whole words, and has one token more if the model has no end-of-sequence token.
        self._words = np.zeros(WORD_BYTES * ((vocabulary + 1 + 31) // 32), dtype=np.uint8)
        self._word_bytes = WORD_BYTES * ((vocabulary + (not ends) + 31) // 32)
        self.allowed: Mask = self._words[: (vocabulary + 7) // 8]
        self._behind = _bits(range(vocabulary, 8 * len(self.allowed)), len(self.allowed))
        self._ends = _bits(ends, len(self.allowed))

    def start(self, tokens: Sequence[int]) -> None:
        """Take in what an answer has already.

        Raises:
            GrammarError: the grammar does not allow it.
        """
        if tokens and not self._matcher.consume_tokens(list(tokens)):
            raise GrammarError(f"does not allow the tokens that the answer has already: {reason(self._matcher)}")
        self._fill()
        if self.error:
            raise GrammarError(self.error)

    def advance(self, token: int) -> None:
        """Take in the next token, which must be one of those that were allowed, and find those behind it."""
        if not self._matcher.consume_token(token):
            self.error = reason(self._matcher) or f"token {token} is not allowed"
        else:
            self._fill()

    def only(self, ids: Collection[int]) -> bool:
        """Whether nothing but tokens of `ids` may come next."""
        return not np.any(self.allowed & ~_bits(ids, len(self.allowed)))

    def _fill(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._word_bytes)
        if self._matcher.is_error():
            self.error = reason(self._matcher)
            return
        self.allowed &= ~self._behind
        self.complete = not np.any(self.allowed & ~self._ends)
        if self.ends_itself:
            self.allowed &= ~self._ends


def _bits(ids: Collection[int], size: int) -> Mask:
    bits = np.zeros(8 * size, dtype=np.bool_)
    bits[[id for id in ids if id < 8 * size]] = True
    return np.packbits(bits, bitorder="little")
