"""Cuts long texts at the places where the model's own tokenizer cuts them."""

import re
from collections.abc import Iterator, Sequence

from router_service.text.tiktoken.format import TiktokenFormat

RUNS = re.compile(r"\s+|\S+")


class Cutter:
    """Cuts text by the limits of a format, but never within one of `tokens`, which structure a conversation."""

    def __init__(self, format: TiktokenFormat, tokens: Sequence[str]) -> None:
        self._segment, self._run = format.segment, format.run
        self._tokens = re.compile("|".join(re.escape(token) for token in tokens))
        self._longest = max(map(len, tokens))

    def pieces(self, text: str) -> Iterator[str]:
        """Yield `text` in pieces, none of them empty."""
        start = 0
        for limit in self._limits(text):
            cut = self._before_token(text, limit)
            if cut > start:
                yield text[start:cut]
                start = cut
        if start < len(text):
            yield text[start:]

    def _limits(self, text: str) -> Iterator[int]:
        """Yield the positions of the segment and run limits, in order."""
        if len(text) <= min(self._segment, self._run):
            return
        for start in range(0, len(text), self._segment):
            end = min(start + self._segment, len(text))
            for run in RUNS.finditer(text, start, end):
                yield from range(run.start() + self._run, run.end(), self._run)
            if end < len(text):
                yield end

    def _before_token(self, text: str, limit: int) -> int:
        """Return `limit`, or the start of the token that it would split."""
        near = self._tokens.finditer(text, max(0, limit - self._longest + 1), limit + self._longest - 1)
        return next((match.start() for match in near if match.start() < limit < match.end()), limit)
