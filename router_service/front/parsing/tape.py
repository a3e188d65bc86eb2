"""The text of an answer as its readers see it: what has come, and what they have made of it."""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from router_service.front.parsing.parsed import CallDelta

T = TypeVar("T")
# A reader is a generator that yields where it needs more text, and so decides by the text alone, however it is cut.
Reading = Generator[None, None, T]


class Kind(Enum):
    """What a piece of an answer's text is."""

    CONTENT = "content"
    REASONING = "reasoning"
    # Around the reasoning and the calls: markers, and whitespace that nobody is given.
    MARKER = "marker"
    CALL = "call"
    # A further call where the request takes one only.
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Piece:
    """Some characters of the answer and what they are; the `raw` of all pieces, joined, is the whole answer."""

    kind: Kind
    raw: str
    delta: CallDelta | None = None


class Tape:
    """The text that has come and is not taken yet, and the pieces made of what is taken."""

    def __init__(self) -> None:
        self.ended = False
        # Whether the text so far ends within the reasoning.
        self.reasoning = False
        self.pieces: list[Piece] = []
        self._text = ""
        self._position = 0

    def feed(self, text: str) -> None:
        """Append what was generated."""
        self._text = self._text[self._position :] + text
        self._position = 0

    @property
    def rest(self) -> tuple[str, int]:
        """The text and where in it the first character is that is not taken yet."""
        return self._text, self._position

    def ahead(self, count: int) -> str:
        """Return at most `count` of the characters that come next."""
        return self._text[self._position : self._position + count]

    def take(self, count: int) -> str:
        """Take the next `count` characters."""
        taken = self.ahead(count)
        self._position += len(taken)
        return taken

    def peek(self) -> Reading[str]:
        """Return the next character, not taken; "" at the end of the answer."""
        while self._position >= len(self._text):
            if self.ended:
                return ""
            yield
        return self._text[self._position]

    def emit(self, kind: Kind, raw: str, delta: CallDelta | None = None) -> None:
        """Add a piece."""
        if raw or delta is not None:
            self.pieces.append(Piece(kind, raw, delta))
