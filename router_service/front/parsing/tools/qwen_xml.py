"""Qwen3-Coder's calls: <function=NAME>, <parameter=KEY> VALUE </parameter> for each argument, </function>."""

import json
from typing import Any

from router_service.front.parsing.calls import Call, Calls
from router_service.front.parsing.literals import Markers, matches, name_of, spaces, until
from router_service.front.parsing.tape import Reading, Tape
from router_service.front.parsing.tools.python_values import json_of

FUNCTION, END_FUNCTION = "<function=", "</function>"
PARAMETER, END_PARAMETER = "<parameter=", "</parameter>"
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
    text = not isinstance(schema, dict) or schema.get("type", "string") == "string"
    parts: list[str] = []
    if text:
        call.arguments('"', raw="")
    end = yield from until(tape, VALUE_ENDS, (lambda part: _pass(call, part)) if text else parts.append)
    if not text:
        raw = "".join(parts)
        call.arguments(json_of(raw) or json.dumps(raw, ensure_ascii=False), raw=raw)
    elif end:
        call.arguments('"', raw="")
    call.hold(tape.take(len(end)))
    return bool(end)


def _pass(call: Call, part: str) -> None:
    call.arguments(json.dumps(part, ensure_ascii=False)[1:-1], raw=part)


def _properties(schema: Any) -> dict[str, Any]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return properties if isinstance(properties, dict) else {}
