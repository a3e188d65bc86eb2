"""Which earlier tokens a token attends to, and what a cache must keep for that."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class CacheKind(StrEnum):
    """What a layer's cache keeps, and in what form."""

    FULL = "full"  # keys and values of all tokens
    WINDOW = "window"  # of the last ones
    CHUNK = "chunk"  # of those since the last multiple of so many
    LATENT = "latent"  # latents of all tokens, from which keys and values are projected


@dataclass(frozen=True, slots=True)
class View:
    """Which tokens a token attends to: all before it, or fewer.

    `window` is the number of tokens, itself included; `chunk` reaches back to the last multiple of that many tokens.
    """

    window: int | None = None
    chunk: int | None = None

    @property
    def kind(self) -> CacheKind:
        """The kind of cache of keys and values that it needs."""
        if self.window is not None:
            return CacheKind.WINDOW
        return CacheKind.FULL if self.chunk is None else CacheKind.CHUNK

    @property
    def remembers(self) -> int | None:
        """The most tokens that a token attends to, itself included; None for the whole context."""
        return self.chunk if self.window is None else self.window

    def first_seen(self, position: int) -> int:
        """The first position that the token at `position` attends to; it never moves back as `position` grows."""
        if self.window is not None:
            return max(0, position - self.window + 1)
        return 0 if self.chunk is None else position - position % self.chunk

    def first_seen_by_each(self, positions_T: NDArray[np.int64]) -> NDArray[np.int64]:
        """`first_seen` of all positions."""
        if self.window is not None:
            return np.maximum(positions_T - (self.window - 1), 0)
        return np.zeros_like(positions_T) if self.chunk is None else positions_T - positions_T % self.chunk


WHOLE_CONTEXT = View()
