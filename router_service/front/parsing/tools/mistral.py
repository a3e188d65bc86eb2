"""Mistral's calls: [TOOL_CALLS] with a list of objects, or with a name and its arguments."""

from router_service.front.parsing.call_object import call_object, is_name, json_arguments
from router_service.front.parsing.calls import Call, Calls
from router_service.front.parsing.literals import Markers, matches, name_of, spaces
from router_service.front.parsing.tape import Reading, Tape

OPENING, CALL_ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
MARKERS = (OPENING, CALL_ID, ARGUMENTS)
OPENERS = Markers(OPENING)


def read_mistral(tape: Tape, calls: Calls) -> Reading[None]:
    """Read content and calls, of either form; the newer one has a marker before each name and may have an id."""
    while True:
        lead, opener = yield from calls.prose(OPENERS)
        if not opener:
            return
        call = calls.begin(lead)
        call.hold(tape.take(len(opener)))
        call.hold((yield from spaces(tape)))
        first = yield from tape.peek()
        if first == "[":
            call.hold(tape.take(1))
            yield from _list(tape, calls, call)
        elif not (yield from (call_object(tape, call, OPENERS) if first == "{" else _named(tape, call))):
            call.refuse()


def _list(tape: Tape, calls: Calls, call: Call) -> Reading[None]:
    while True:
        call.hold((yield from spaces(tape)))
        if not (yield from call_object(tape, call, OPENERS)):
            call.refuse()
            return
        call = calls.begin((yield from spaces(tape)))
        if (yield from tape.peek()) != ",":
            break
        call.hold(tape.take(1))
    if (yield from matches(tape, "]")):
        call.hold("]")
    call.drop()


def _named(tape: Tape, call: Call) -> Reading[bool]:
    name, id = (yield from name_of(tape, call.hold)), ""
    if name and (yield from matches(tape, CALL_ID)):
        call.hold(CALL_ID)
        id = yield from name_of(tape, call.hold)
    if name and (yield from matches(tape, ARGUMENTS)):
        call.hold(ARGUMENTS)
    call.hold((yield from spaces(tape)))
    if not is_name(name) or (yield from tape.peek()) != "{":
        return False
    call.open(name, id)
    yield from json_arguments(tape, call, OPENERS)
    return True
