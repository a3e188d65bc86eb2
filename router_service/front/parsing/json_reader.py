"""A reader of JSON that passes on characters as soon as they are certain to be of valid JSON."""

import re
from collections.abc import Callable

from router_service.front.parsing.literals import spaces
from router_service.front.parsing.tape import Reading, Tape

# Of objects and lists within each other; deeper ones are refused like broken ones.
MAX_DEPTH = 64
STRING_BODY = re.compile(r'[^"\\\x00-\x1f]+')
ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})')
ESCAPE_BEGINNING = re.compile(r"\\(u[0-9a-fA-F]{0,3})?")
SCALAR_PART = re.compile(r"[-+.0-9A-Za-z]*")
SCALAR = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null")
# Numbers are held until they end; one of this length is refused, as Python refuses longer integers.
MAX_SCALAR = 4096
CLOSING = {"{": "}", "[": "]"}

Sink = Callable[[str], object]


def json_value(tape: Tape, sink: Sink, depth: int = 0) -> Reading[bool]:
    """Take one value of JSON (RFC 8259), passing on its characters.

    Returns False, with what is before taken, at the character that no JSON can have there, or where the answer ends.
    """
    first = yield from tape.peek()
    if first == '"':
        return (yield from json_string(tape, sink))
    if first in CLOSING:
        return depth < MAX_DEPTH and (yield from _container(tape, sink, depth + 1))
    return (yield from _scalar(tape, sink))


def json_string(tape: Tape, sink: Sink) -> Reading[bool]:
    """Take a string, as `json_value` does."""
    if (yield from tape.peek()) != '"':
        return False
    sink(tape.take(1))
    while (character := (yield from tape.peek())) != '"':
        if character == "\\":
            if not (yield from _escape(tape, sink)):
                return False
        elif body := STRING_BODY.match(*tape.rest):
            sink(tape.take(body.end() - body.start()))
        else:
            return False
    sink(tape.take(1))
    return True


def _escape(tape: Tape, sink: Sink) -> Reading[bool]:
    while not (whole := ESCAPE.match(ahead := tape.ahead(6))):
        if tape.ended or not ESCAPE_BEGINNING.fullmatch(ahead):
            return False
        yield
    sink(tape.take(whole.end()))
    return True


def _container(tape: Tape, sink: Sink, depth: int) -> Reading[bool]:
    opening = tape.take(1)
    sink(opening)
    sink((yield from spaces(tape)))
    if (yield from tape.peek()) == CLOSING[opening]:
        sink(tape.take(1))
        return True
    while (yield from _member(tape, sink, depth, opening)):
        sink((yield from spaces(tape)))
        following = yield from tape.peek()
        if not following or following not in ("," + CLOSING[opening]):
            return False
        sink(tape.take(1))
        if following != ",":
            return True
        sink((yield from spaces(tape)))
    return False


def _member(tape: Tape, sink: Sink, depth: int, opening: str) -> Reading[bool]:
    if opening == "{" and not (yield from json_key(tape, sink)):
        return False
    return (yield from json_value(tape, sink, depth))


def json_key(tape: Tape, sink: Sink) -> Reading[bool]:
    """Take an object's key with its colon and the whitespace around that, as `json_value` does."""
    if not (yield from json_string(tape, sink)):
        return False
    sink((yield from spaces(tape)))
    if (yield from tape.peek()) != ":":
        return False
    sink(tape.take(1))
    sink((yield from spaces(tape)))
    return True


def _scalar(tape: Tape, sink: Sink) -> Reading[bool]:
    # Only what follows says that a number has ended, and only then is it certain.
    while True:
        text, start = tape.rest
        found = SCALAR_PART.match(text, start, start + MAX_SCALAR)
        end = found.end() if found else start
        if end < len(text) or tape.ended or end - start == MAX_SCALAR:
            break
        yield
    if end - start == MAX_SCALAR or not SCALAR.fullmatch(text, start, end):
        return False
    sink(tape.take(end - start))
    return True
