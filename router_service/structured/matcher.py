"""One answer's place in its grammar. V is the model's vocabulary, in which masks have a bit per token."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from router_service.structured.grammar import GrammarError, reason

if TYPE_CHECKING:
    from llguidance import LLMatcher

Mask = NDArray[np.uint8]
WORD_BYTES = 4


class Matcher:
    """Knows which tokens may come next in an answer. `MaskThread` lets it take tokens in.

    `allowed` has bit `id % 8` of byte `id // 8` set for each token that may come next; what it has behind the
    vocabulary says nothing, and neither does the rest once `error` is set. `ends_itself` says that the answer ends when
    only its end may come (`complete`), because no end-of-sequence token can be drawn then.

    Args:
        own: the place itself, at the start of the grammar.
        vocabulary: V.
        ends: end-of-sequence ids that may be drawn once the grammar is satisfied.
        ignore_eos: whether those are never drawn.
    """

    def __init__(self, own: "LLMatcher", vocabulary: int, ends: Collection[int], ignore_eos: bool = False) -> None:
        self.own = own
        self.error = ""
        self.complete = False
        self.ends_itself = ignore_eos or not ends
        # llguidance has one token more if the model has no end-of-sequence token.
        self.mask_bytes = WORD_BYTES * ((vocabulary + (not ends) + 31) // 32)
        self.allowed: Mask = np.zeros(self.mask_bytes, dtype=np.uint8)
        self._behind = _bits(range(vocabulary, 8 * self.mask_bytes), self.mask_bytes)
        self._ends = _bits(ends, self.mask_bytes)

    def start(self, tokens: Sequence[int] = ()) -> None:
        """Take in what an answer has already, and find what may come next.

        Raises:
            GrammarError: the grammar does not allow it.
        """
        if tokens and not self.own.consume_tokens(list(tokens)):
            raise GrammarError(f"does not allow the tokens that the answer has already: {reason(self.own)}")
        self._fill()
        if self.error:
            raise GrammarError(self.error)

    def advance(self, token: int) -> None:
        """Take in the next token; `MaskThread` does it for many answers at once."""
        self.own.consume_token(token)
        self._fill()

    def first(self) -> int | None:
        """Return the lowest id that may come next and is no end, None if there is none."""
        text = self.allowed & ~(self._ends | self._behind)
        found = np.flatnonzero(np.unpackbits(text, bitorder="little"))
        return int(found[0]) if len(found) else None

    def _fill(self) -> None:
        mask = np.zeros(self.mask_bytes, dtype=np.uint8)
        self.own.unsafe_compute_mask_ptr(mask.ctypes.data, self.mask_bytes)
        self.take(mask)

    def take(self, mask: Mask) -> None:
        """Take a mask that was made of `own`, which may have failed meanwhile."""
        if self.own.is_error():
            self.error = reason(self.own)
            return
        self.allowed = mask
        if self.ends_itself:
            self.allowed = mask & ~(self._ends | self._behind)
            self.complete = not self.allowed.any()

    def only(self, ids: Collection[int]) -> bool:
        """Whether nothing but tokens of `ids` may come next."""
        return not np.any(self.allowed & ~(self._behind | _bits(ids, self.mask_bytes)))


def _bits(ids: Collection[int], size: int) -> Mask:
    bits = np.zeros(8 * size, dtype=np.bool_)
    bits[[id for id in ids if id < 8 * size]] = True
    return np.packbits(bits, bitorder="little")
