"""Readers of fixed texts: markers, whitespace, names."""

import re
from collections.abc import Callable

from router_service.front.parsing.tape import Reading, Tape

SPACE = " \t\r\n"
# What names of functions are made of; Kimi's have a dot and a colon. Longer ones are none.
NAME = re.compile(r"[\w.:/-]*")
MAX_NAME = 256


class Markers:
    """Texts to look for, none of which begins another."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self._pattern = re.compile("|".join(re.escape(text) for text in texts))
        self._beginnings = {text[:length] for text in texts for length in range(1, len(text))}
        self._longest = max((len(text) for text in texts), default=1) - 1

    def find(self, text: str, start: int) -> tuple[int, str]:
        """Return where from `start` on the first of them is, and which; else where one that is cut may be, and ""."""
        if not self.texts:
            return len(text), ""
        if found := self._pattern.search(text, start):
            return found.start(), found.group()
        for position in range(max(start, len(text) - self._longest), len(text)):
            if text[position:] in self._beginnings:
                return position, ""
        return len(text), ""


def until(tape: Tape, markers: Markers, sink: Callable[[str], object]) -> Reading[str]:
    """Pass on the text before the first marker and return the marker, which is not taken; "" at the end."""
    while True:
        text, start = tape.rest
        position, marker = markers.find(text, start)
        if tape.ended and not marker:
            position = len(text)
        if position > start:
            sink(tape.take(position - start))
        if marker or tape.ended:
            return marker
        yield


def spaces(tape: Tape) -> Reading[str]:
    """Take whitespace, none or all of it."""
    taken = ""
    while (next_one := (yield from tape.peek())) and next_one in SPACE:
        taken += tape.take(1)
    return taken


def matches(tape: Tape, literal: str) -> Reading[bool]:
    """Take `literal` if it comes next, else nothing."""
    while literal.startswith(ahead := tape.ahead(len(literal))):
        if len(ahead) == len(literal):
            tape.take(len(literal))
            return True
        if tape.ended:
            return False
        yield
    return False


def name_of(tape: Tape, sink: Callable[[str], object], pattern: re.Pattern[str] = NAME) -> Reading[str]:
    """Take a function's name and pass it on; "" where none comes or it is too long or the answer ends in it."""
    name = ""
    while len(name) <= MAX_NAME:
        if not (yield from tape.peek()):
            return ""
        found = pattern.match(tape.ahead(MAX_NAME + 1 - len(name)))
        part = tape.take(found.end() if found else 0)
        if not part:
            return name
        sink(part)
        name += part
    return ""
