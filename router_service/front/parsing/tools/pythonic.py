"""Calls in Python's form: [f(a=1), g(b="x")]."""

import json
import re
from collections.abc import Callable

from router_service.front.parsing.call_object import hold
from router_service.front.parsing.calls import Call, Calls
from router_service.front.parsing.json_reader import MAX_DEPTH
from router_service.front.parsing.literals import matches, name_of, spaces
from router_service.front.parsing.tape import Reading, Tape
from router_service.front.parsing.tools.python_values import json_of

PLAIN = re.compile(r"""[^"'()\[\]{},]+""")
STRING_BODY = re.compile(r"""[^"'\\\n]+""")
CLOSING = {"(": ")", "[": "]", "{": "}"}


def read_list(tape: Tape, calls: Calls, call: Call) -> Reading[str]:
    """Read calls of the request's tools, each given when it is whole, since Python's values become JSON's then.

    Returns the whitespace behind the list, which waits; what is no such list is content.
    """
    separator = "["
    while (yield from hold(tape, call, separator)) and (yield from _call(tape, calls, call)):
        call, separator = calls.begin(""), ","
        call.hold((yield from spaces(tape)))
        if (yield from matches(tape, "]")):
            call.hold("]")
            call.drop()
            return (yield from spaces(tape))
    call.refuse()
    return ""


def _call(tape: Tape, calls: Calls, call: Call) -> Reading[bool]:
    name = yield from name_of(tape, call.hold)
    if name not in calls.names or not (yield from hold(tape, call, "(")):
        return False
    arguments: dict[str, str] = {}
    while not (yield from matches(tape, ")")):
        if arguments and not (yield from hold(tape, call, ",")):
            return False
        if not (yield from _argument(tape, call, arguments)):
            return False
    call.hold(")")
    call.open(name)
    pairs = (f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in arguments.items())
    call.arguments("{" + ", ".join(pairs) + "}", raw="")
    return True


def _argument(tape: Tape, call: Call, arguments: dict[str, str]) -> Reading[bool]:
    key = yield from name_of(tape, call.hold)
    if not key or key in arguments or not (yield from hold(tape, call, "=")):
        return False
    parts: list[str] = []
    whole = yield from _expression(tape, parts.append)
    text = "".join(parts)
    call.hold(text)
    arguments[key] = json_of(text) if whole else ""
    return bool(arguments[key])


def _expression(tape: Tape, sink: Callable[[str], object]) -> Reading[bool]:
    """Take what may be a value, up to the comma or parenthesis behind it."""
    closers: list[str] = []
    while (first := (yield from tape.peek())) and (closers or first not in ",)"):
        if first in "\"'":
            if not (yield from _string(tape, sink)):
                return False
        elif plain := PLAIN.match(*tape.rest):
            sink(tape.take(plain.end() - plain.start()))
        else:
            sink(tape.take(1))
            if first in CLOSING:
                closers.append(CLOSING[first])
            elif first != "," and (not closers or closers.pop() != first):
                return False
            if len(closers) > MAX_DEPTH:
                return False
    return bool(first)


def _string(tape: Tape, sink: Callable[[str], object]) -> Reading[bool]:
    quote = tape.take(1)
    sink(quote)
    while (first := (yield from tape.peek())) and first != quote:
        if first == "\n":
            return False
        body = STRING_BODY.match(*tape.rest)
        sink(tape.take(body.end() - body.start() if body else 1))
        if first == "\\":
            # Whatever is escaped, it does not end the string.
            if not (yield from tape.peek()):
                return False
            sink(tape.take(1))
    if first:
        sink(tape.take(1))
    return bool(first)
