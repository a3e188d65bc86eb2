"""Finds added tokens in a text."""

import re
from collections.abc import Iterable, Mapping

from router_service.text.sentence_piece.added_tokens import AddedToken


class Splitter:
    """Splits texts at added tokens; at one place the longest one counts."""

    def __init__(self, added: Mapping[int, AddedToken]) -> None:
        self._added = dict(added)
        self._id_of = {token.content: id for id, token in added.items()}

    def split(self, text: str, recognized: Iterable[str]) -> list[str | int]:
        """Return the texts between tokens, and the ids of those of `recognized` that are in `text`."""
        # Most texts have few of them, and looking for one takes far less time than for any of hundreds at each place.
        present = [content for content in recognized if content in text]
        if not present:
            return [text]
        parts: list[str | int] = []
        end = 0
        for match in re.finditer("|".join(map(self._pattern, sorted(present, key=len, reverse=True))), text):
            parts += [text[end : match.start()], self._id_of[match[0]]]
            end = match.end()
        return [*parts, text[end:]]

    def stripped(self, parts: list[str | int]) -> list[str | int]:
        """Return `parts` without the white space that tokens take away, adjacent ones joined, empty ones left out."""
        kept: list[str | int] = []
        for part in parts:
            before = kept[-1] if kept else None
            token = self._added.get(before) if isinstance(before, int) else None
            if isinstance(part, str):
                text = part.lstrip() if token is not None and token.rstrip else part
                if isinstance(before, str):
                    kept[-1] = before + text
                else:
                    kept.append(text)
                continue
            token = self._added.get(part)
            if isinstance(before, str) and token is not None and token.lstrip:
                kept[-1] = before.rstrip()
            kept.append(part)
        return [part for part in kept if part != ""]

    def _pattern(self, content: str) -> str:
        pattern = re.escape(content)
        return rf"(?<!\w){pattern}(?!\w)" if self._added[self._id_of[content]].single_word else pattern
