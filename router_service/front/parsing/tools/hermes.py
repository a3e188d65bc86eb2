"""Calls between tags: Hermes' and Qwen's JSON, and Qwen3-Coder's XML."""

from router_service.front.parsing.call_object import call_object
from router_service.front.parsing.calls import Call, Calls
from router_service.front.parsing.literals import Markers, matches, spaces, until
from router_service.front.parsing.tape import Reading, Tape
from router_service.front.parsing.tools.qwen_xml import FUNCTION, xml_function

OPENING, CLOSING = "<tool_call>", "</tool_call>"
OPENERS = Markers(OPENING)
# Qwen3-Coder at times leaves the tag out.
CODER_OPENERS = Markers(OPENING, FUNCTION)
ENDS = Markers(OPENING, CLOSING)


def read_hermes(tape: Tape, calls: Calls) -> Reading[None]:
    """Read content and calls: <tool_call>, {"name": ..., "arguments": {...}} or <function=...>, </tool_call>."""
    yield from _read(tape, calls, OPENERS)


def read_qwen_coder(tape: Tape, calls: Calls) -> Reading[None]:
    """As `read_hermes`, and <function=...> without the tag is a call too."""
    yield from _read(tape, calls, CODER_OPENERS)


def _read(tape: Tape, calls: Calls, openers: Markers) -> Reading[None]:
    while True:
        lead, opener = yield from calls.prose(openers)
        if not opener:
            return
        call = calls.begin(lead)
        if opener == OPENING:
            call.hold(tape.take(len(OPENING)))
            call.hold((yield from spaces(tape)))
        if (yield from tape.peek()) == "<":
            good = yield from xml_function(tape, call, calls)
        else:
            good = yield from call_object(tape, call, ENDS)
        if not good:
            call.refuse()
        elif opener == OPENING:
            yield from close(tape, call, CLOSING, ENDS)


def close(tape: Tape, call: Call, closing: str, ends: Markers) -> Reading[None]:
    """Take the marker behind a call; what stands before it and is no whitespace is content."""
    call.hold((yield from spaces(tape)))
    marker = yield from until(tape, ends, call.content)
    if marker == closing and (yield from matches(tape, closing)):
        call.hold(closing)
