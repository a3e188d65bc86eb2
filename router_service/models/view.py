"""What a token sees of those before it, and what a cache must remember for that."""

from dataclasses import dataclass
from enum import StrEnum


class CacheKind(StrEnum):
    """What a layer's cache remembers, and in what form."""

    FULL = "full"  # keys and values of all tokens
    WINDOW = "window"  # of the last ones
    CHUNK = "chunk"  # of those since the last multiple of so many
    LATENT = "latent"  # latents of all tokens, of which keys and values are made


@dataclass(frozen=True, slots=True)
class View:
    """What a token sees: all before it, or less.

    `window` sees so many tokens back, itself included; `chunk` sees back to the last multiple of so many tokens.
    """

    window: int | None = None
    chunk: int | None = None

    @property
    def kind(self) -> CacheKind:
        """What a cache of keys and values must remember for it."""
        if self.window is not None:
            return CacheKind.WINDOW
        return CacheKind.FULL if self.chunk is None else CacheKind.CHUNK

    @property
    def remembers(self) -> int | None:
        """The most tokens that one sees, itself included; None where there is no limit but the context."""
        return self.chunk if self.window is None else self.window


WHOLE_CONTEXT = View()
