"""Which tokens a sequence has had and how often each was generated, kept up by one token a step."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FIRST_CAPACITY = 64


class TokenCounts:
    """N distinct tokens of one sequence, whose first `prompt_length` tokens are the prompt.

    It is filled from the tokens themselves on the first `update`, so it is right for a stream that began on another
    router; after that an update costs as much as the tokens added since.
    """

    def __init__(self, prompt_length: int) -> None:
        self._prompt_length = prompt_length
        self._counted = 0
        self._places: dict[int, int] = {}
        self._ids = np.empty(FIRST_CAPACITY, dtype=np.int64)
        self._generated = np.zeros(FIRST_CAPACITY, dtype=np.float32)

    @property
    def ids_N(self) -> NDArray[np.int64]:
        """The distinct tokens, in order of first appearance."""
        return self._ids[: len(self._places)]

    @property
    def generated_N(self) -> NDArray[np.float32]:
        """How often each was generated, 0 for a token of the prompt alone. Floats, as the penalties need them."""
        return self._generated[: len(self._places)]

    def update(self, tokens: Sequence[int]) -> None:
        """Count those of `tokens`, which only grow, that are not counted yet."""
        if self._counted < self._prompt_length:
            # At once: a long prompt must not delay the step of all other sequences.
            fresh = [token for token in dict.fromkeys(tokens[: self._prompt_length]) if token not in self._places]
            self._append(fresh)
            self._counted = self._prompt_length
        for token in tokens[self._counted :]:
            if token not in self._places:
                self._append([token])
            self._generated[self._places[token]] += 1
        self._counted = len(tokens)

    def _append(self, fresh: list[int]) -> None:
        start, end = len(self._places), len(self._places) + len(fresh)
        if end > len(self._ids):
            # Twice what is needed, so that all growth together costs one pass over the tokens.
            self._ids = np.concatenate((self.ids_N, np.empty(2 * end - start, dtype=np.int64)))
            self._generated = np.concatenate((self.generated_N, np.zeros(2 * end - start, dtype=np.float32)))
        self._ids[start:end] = fresh
        self._places.update(zip(fresh, range(start, end), strict=True))
