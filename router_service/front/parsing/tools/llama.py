"""Llama's calls: JSON objects, or Python's calls in brackets; an answer that calls begins with them."""

from router_service.front.parsing.call_object import call_object
from router_service.front.parsing.calls import Call, Calls
from router_service.front.parsing.literals import Markers, matches, spaces
from router_service.front.parsing.tape import Reading, Tape
from router_service.front.parsing.tools.pythonic import read_list

PYTHON_TAG, PYTHON_START, PYTHON_END = "<|python_tag|>", "<|python_start|>", "<|python_end|>"
MARKERS = (PYTHON_TAG, PYTHON_START, PYTHON_END)
OPENERS = Markers(*MARKERS)


def read_llama(tape: Tape, calls: Calls) -> Reading[None]:
    """Read calls at the start of an answer or behind a marker, and content.

    Nothing else tells a call from text, so that its name must be one of the request's tools.
    """
    opener = ""
    while True:
        call = calls.begin("")
        call.hold(tape.take(len(opener)))
        call.hold((yield from spaces(tape)))
        if opener == PYTHON_END and calls.count:
            call.drop()
            call = calls.begin("")
        if (yield from tape.peek()) == "[":
            lead = yield from read_list(tape, calls, call)
        else:
            lead = yield from _objects(tape, calls, call)
        lead, opener = yield from calls.prose(OPENERS, lead)
        if not opener:
            return


def _objects(tape: Tape, calls: Calls, call: Call) -> Reading[str]:
    """Read objects with semicolons between; return the whitespace behind the last, which waits."""
    while (yield from call_object(tape, call, OPENERS, calls.names)):
        lead = yield from spaces(tape)
        if not (yield from matches(tape, ";")):
            return lead
        call = calls.begin(lead + ";")
        call.hold((yield from spaces(tape)))
    call.refuse()
    return ""
