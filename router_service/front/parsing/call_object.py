"""A call as a JSON object: {"name": ..., "arguments": {...}}."""

import json
from collections.abc import Container

from router_service.front.parsing.calls import Call
from router_service.front.parsing.json_reader import json_string, json_value
from router_service.front.parsing.literals import MAX_NAME, NAME, Markers, matches, spaces, until
from router_service.front.parsing.tape import Reading, Tape

ARGUMENTS = ("arguments", "parameters")
# What else may stand before the arguments; an object with other keys is no call, and streams as text from there on.
TEXTS = ("name", "id", "type")


def call_object(tape: Tape, call: Call, ends: Markers, names: Container[str] | None = None) -> Reading[bool]:
    """Read an object; return whether it is a call, else what was taken of it is held by `call`.

    Arguments that break are passed on as they are up to one of `ends`, as OpenAI's API does: their client sees that
    they are no JSON. `names`: what a call may name, None for anything.
    """
    known: dict[str, str] = {}
    separator = "{"
    while not call.opened:
        if not (yield from hold(tape, call, separator)):
            return False
        key = yield from _string(tape, call)
        if not (yield from hold(tape, call, ":")):
            return False
        if key in ARGUMENTS:
            good = yield from _arguments(tape, call, known, ends)
        else:
            good = key in TEXTS and (yield from _text(tape, call, known, key))
        if not good or (key == "name" and names is not None and known["name"] not in names):
            return call.opened
        open_known(call, known)
        separator = ","
    yield from _remainder(tape, call)
    return True


def json_arguments(tape: Tape, call: Call, ends: Markers) -> Reading[bool]:
    """Pass on the arguments of an open call, whose `{` comes next; return False where they break or the answer ends."""
    if (yield from json_value(tape, call.arguments)):
        return True
    yield from until(tape, ends, call.arguments)
    return False


def open_known(call: Call, known: dict[str, str]) -> None:
    """Open the call if its name came after its arguments."""
    if not call.opened and known.keys() >= {"name", "arguments"}:
        call.open(known["name"], known.get("id", ""))
        call.arguments(known["arguments"], raw="")


def _arguments(tape: Tape, call: Call, known: dict[str, str], ends: Markers) -> Reading[bool]:
    first = yield from tape.peek()
    if first == "{" and "name" in known:
        call.open(known["name"], known.get("id", ""))
        return (yield from json_arguments(tape, call, ends))
    parts: list[str] = []
    whole = first in ("{", "n") and (yield from json_value(tape, parts.append))
    text = "".join(parts)
    call.hold(text)
    known["arguments"] = "{}" if text == "null" else text
    return whole


def _text(tape: Tape, call: Call, known: dict[str, str], key: str) -> Reading[bool]:
    text = yield from _string(tape, call)
    if key == "name" and not is_name(text):
        return False
    if text and (key != "id" or is_name(text)):
        known[key] = text
    return bool(text)


def is_name(text: str) -> bool:
    """Return whether a call may have this name."""
    return 0 < len(text) <= MAX_NAME and NAME.fullmatch(text) is not None


def _string(tape: Tape, call: Call) -> Reading[str]:
    parts: list[str] = []
    whole = yield from json_string(tape, parts.append)
    raw = "".join(parts)
    call.hold(raw)
    return str(json.loads(raw)) if whole else ""


def hold(tape: Tape, call: Call, literal: str) -> Reading[bool]:
    """Take `literal` with the whitespace around it."""
    call.hold((yield from spaces(tape)))
    if not (yield from matches(tape, literal)):
        return False
    call.hold(literal)
    call.hold((yield from spaces(tape)))
    return True


def _remainder(tape: Tape, call: Call) -> Reading[None]:
    """Take what follows the arguments within the object, as far as it is JSON."""
    while (yield from hold(tape, call, ",")):
        yield from json_string(tape, call.hold)
        if not (yield from hold(tape, call, ":")) or not (yield from json_value(tape, call.hold)):
            return
    if (yield from matches(tape, "}")):
        call.hold("}")
