"""An answer parser over a reader."""

from collections.abc import Callable

from router_service.front.parsing.parsed import AnswerParser, Parsed
from router_service.front.parsing.tape import Kind, Piece, Reading, Tape


class PieceParser(AnswerParser):
    """Runs a reader over an answer's text; the `raw` of all its pieces, joined, is the text."""

    def __init__(self, read: Callable[[Tape], Reading[None]]) -> None:
        self._tape = Tape()
        self._called = False
        self._reader = read(self._tape)
        next(self._reader, None)

    @property
    def reasoning(self) -> bool:
        """Whether the text so far ends within the reasoning."""
        return self._tape.reasoning

    @property
    def called(self) -> bool:
        """Whether the answer calls a tool."""
        return self._called

    def push(self, text: str) -> Parsed:
        """Read the next piece; what may be the start of a marker is held back."""
        return self._parsed(self.read(text))

    def flush(self) -> Parsed:
        """Return what is held back, at the end of the answer; a call that never became one is content."""
        return self._parsed(self.end())

    def read(self, text: str) -> list[Piece]:
        """As `push`, but return the pieces."""
        self._tape.feed(text)
        return self._pieces()

    def end(self) -> list[Piece]:
        """As `flush`, but return the pieces."""
        self._tape.ended = True
        return self._pieces()

    def _pieces(self) -> list[Piece]:
        next(self._reader, None)
        pieces, self._tape.pieces = self._tape.pieces, []
        return pieces

    def _parsed(self, pieces: list[Piece]) -> Parsed:
        parsed = Parsed()
        for piece in pieces:
            if piece.kind is Kind.CONTENT:
                parsed.content += piece.raw
            elif piece.kind is Kind.REASONING:
                parsed.reasoning += piece.raw
            elif piece.delta is not None:
                self._called = True
                parsed.calls.append(piece.delta)
        return parsed
