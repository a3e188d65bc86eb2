"""Finds stop strings in a text that arrives in pieces."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text up to the first stop string, and holds back what may be the start of one.

    The first is the one that completes first; of several that end at the same character, the longest. So the result
    does not depend on how the text was split into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(stop, _borders(stop)) for stop in stops]
        self._matched = [0] * len(stops)
        self._held = ""
        self.stopped = False
        self.found = ""  # the stop string that is complete

    def push(self, piece: str, may_stop: bool = True) -> str:
        """Return the text that is certain; "" once a stop string is complete (`stopped`).

        Args:
            may_stop: if False, stop strings that `piece` completes are text like any other.
        """
        if self.stopped:
            return ""
        if not self._stops:
            return piece
        text, seen = self._held + piece, len(self._held)
        for offset, character in enumerate(piece, start=1):
            if (matched := self._step(character)) and may_stop:
                self.stopped, self._held = True, ""
                end = seen + offset
                self.found = text[end - matched : end]
                return text[: end - matched]
        certain = len(text) - max(self._matched)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """Return the text held back, at the end of a text without a stop string."""
        held, self._held = self._held, ""
        return held

    def _step(self, character: str) -> int:
        """Advance every stop string's match by a character; return the length of the longest complete one, or 0."""
        complete = 0
        for index, (stop, borders) in enumerate(self._stops):
            matched = self._matched[index]
            while matched and stop[matched] != character:
                matched = borders[matched - 1]
            matched += stop[matched] == character
            if matched == len(stop):
                complete = max(complete, matched)
                # Where it may not stop yet, its end can be the start of the next occurrence.
                matched = borders[-1]
            self._matched[index] = matched
        return complete


def _borders(pattern: str) -> list[int]:
    """For each prefix of `pattern`, the length of its longest border (Knuth, Morris and Pratt's failure function)."""
    borders = [0] * len(pattern)
    matched = 0
    for index in range(1, len(pattern)):
        while matched and pattern[matched] != pattern[index]:
            matched = borders[matched - 1]
        matched += pattern[matched] == pattern[index]
        borders[index] = matched
    return borders
