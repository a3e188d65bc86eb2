"""Which earlier tokens a token attends to, and what a cache must keep for that."""

from dataclasses import dataclass
from enum import StrEnum


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
        """Return the first position that a token at `position` attends to."""
        if self.window is not None:
            return max(0, position - self.window + 1)
        return position - position % self.chunk if self.chunk is not None else 0


WHOLE_CONTEXT = View()
