"""Qwen3-Coder's calls: <function=NAME>, <parameter=KEY> VALUE </parameter> for each argument, </function>."""

import json
from typing import Any

from router_service.front.parsing.calls import Call, Calls
from router_service.front.parsing.literals import Markers, matches, name_of, spaces, until
from router_service.front.parsing.tape import Reading, Tape
from router_service.front.parsing.tools.python_values import json_of

FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"
# The types of JSON Schema of a value.
KINDS: dict[type, tuple[str, ...]] = {
    dict: ("object",),
    list: ("array",),
    str: ("string",),
    int: ("integer", "number"),
    float: ("number",),
    bool: ("boolean",),
    type(None): ("null",),
}
# The line break before the closing tag belongs to the form, so that it waits for what follows.
VALUE_ENDS = Markers("\n" + END_PARAMETER, END_PARAMETER)


def xml_function(tape: Tape, call: Call, calls: Calls) -> Reading[bool]:
    """Read a call from <function= on; return whether it is one, else what was taken is held by `call`."""
    name = yield from _tag(tape, call, FUNCTION)
    if not name:
        return False
    call.open(name)
    call.arguments("{", raw="")
    properties = _properties(calls.schemas.get(name))
    separator = ""
    call.hold((yield from spaces(tape)))
    while key := (yield from _tag(tape, call, PARAMETER)):
        call.arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ", raw="")
        if not (yield from _value(tape, call, properties.get(key))):
            return True
        separator = ", "
        call.hold((yield from spaces(tape)))
    if (yield from tape.peek()):
        call.arguments("}", raw="")
    if (yield from matches(tape, END_FUNCTION)):
        call.hold(END_FUNCTION)
    return True


def _tag(tape: Tape, call: Call, opening: str) -> Reading[str]:
    """Take a tag with a name in it; return the name, "" if there is no whole tag."""
    if not (yield from matches(tape, opening)):
        return ""
    parts = [opening]
    name = yield from name_of(tape, parts.append)
    whole = bool(name) and (yield from matches(tape, ">"))
    if call.opened and not whole:
        call.content("".join(parts))
    else:
        call.hold("".join(parts) + ">" * whole)
    return name if whole else ""


def _value(tape: Tape, call: Call, schema: Any) -> Reading[bool]:
    """Pass on a value as JSON: texts as they come, others when whole; return False if the answer ends in it."""
    if (yield from matches(tape, "\n")):
        call.hold("\n")
    types = types_of(schema)
    text = types == {"string"}
    parts: list[str] = []
    if text:
        call.arguments('"', raw="")
    end = yield from until(tape, VALUE_ENDS, (lambda part: _pass(call, part)) if text else parts.append)
    if not text:
        raw = "".join(parts)
        call.arguments(_json_of_types(raw, types), raw=raw)
    elif end:
        call.arguments('"', raw="")
    call.hold(tape.take(len(end)))
    return bool(end)


def _pass(call: Call, part: str) -> None:
    call.arguments(json.dumps(part, ensure_ascii=False)[1:-1], raw=part)


def types_of(schema: Any) -> set[str]:
    """Return the types of JSON that a value may have, empty if any; one of which nothing is known is a text."""
    if not isinstance(schema, dict):
        return {"string"}
    given = schema.get("type")
    if isinstance(given, str | list):
        return {given} if isinstance(given, str) else {str(one) for one in given}
    choices = schema.get("anyOf") or schema.get("oneOf")
    each = [types_of(choice) for choice in choices] if isinstance(choices, list) else []
    return set.union(*each) if each and all(each) else set()


def _json_of_types(raw: str, types: set[str]) -> str:
    """Return a value as JSON: as what it reads as, if it may be that; else as a text."""
    made = json_of(raw)
    kind = KINDS[type(json.loads(made))] if made else ()
    if made and (not types or "string" not in types or not types.isdisjoint(kind)):
        return made
    return json.dumps(raw, ensure_ascii=False)


def _properties(schema: Any) -> dict[str, Any]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}
