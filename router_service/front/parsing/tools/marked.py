"""Calls between markers of their own in a section: DeepSeek's and Kimi K2's."""

import re
from dataclasses import dataclass

from router_service.front.parsing.call_object import hold, json_arguments
from router_service.front.parsing.calls import Call, Calls
from router_service.front.parsing.literals import Markers, name_of, spaces
from router_service.front.parsing.tape import Reading, Tape
from router_service.front.parsing.tools.hermes import close

FENCE, END_FENCE = "```json", "```"
KIMI_ID = re.compile(r"(?:functions\.)?(.+):[0-9]+")


@dataclass(frozen=True, slots=True)
class Section:
    """The markers of a section and of a call in it; `separator` stands behind the name."""

    opening: str
    closing: str
    call: str
    separator: str
    end_call: str

    @property
    def markers(self) -> tuple[str, ...]:
        """All of them."""
        return self.opening, self.closing, self.call, self.separator, self.end_call


# A fullwidth vertical line, by its number since it looks like the usual one.
BAR = "\uff5c"
DEEPSEEK = Section(
    *(f"<{BAR}tool▁{name}{BAR}>" for name in ("calls▁begin", "calls▁end", "call▁begin", "sep", "call▁end"))
)
KIMI = Section(
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)


def read_deepseek(tape: Tape, calls: Calls) -> Reading[None]:
    """Read content and calls of DeepSeek-V3 and R1 (type, separator, name, ```json block) and V3.1 (name, JSON)."""
    yield from _read(tape, calls, DEEPSEEK)


def read_kimi(tape: Tape, calls: Calls) -> Reading[None]:
    """Read content and calls of Kimi K2: functions.NAME:INDEX, which is the call's id too, and JSON."""
    yield from _read(tape, calls, KIMI)


def _read(tape: Tape, calls: Calls, section: Section) -> Reading[None]:
    openers = Markers(section.opening, section.call, section.closing)
    ends = Markers(section.end_call, section.closing, section.call)
    while True:
        lead, opener = yield from calls.prose(openers)
        if not opener:
            return
        call = calls.begin(lead)
        call.hold(tape.take(len(opener)))
        if opener == section.closing and calls.count and calls.quiet:
            call.drop()
        elif opener == section.closing or not (yield from _call(tape, call, section, ends, opener)):
            call.refuse()


def _call(tape: Tape, call: Call, section: Section, ends: Markers, opener: str) -> Reading[bool]:
    """Read a call from behind its opener; return whether it is one, else what was taken is held by `call`."""
    if opener == section.opening and not (yield from hold(tape, call, section.call)):
        return False
    read_head = _deepseek_head if section is DEEPSEEK else _kimi_head
    name, id, fence = yield from read_head(tape, call, section)
    if not name or (yield from tape.peek()) != "{":
        return False
    call.open(name, id)
    if (yield from json_arguments(tape, call, ends)) and fence:
        yield from hold(tape, call, fence)
    yield from close(tape, call, section.end_call, ends)
    return True


def _deepseek_head(tape: Tape, call: Call, section: Section) -> Reading[tuple[str, str, str]]:
    """Take all before the arguments; return the name, no id, and what stands behind the arguments."""
    name = yield from name_of(tape, call.hold)
    if not name or not (yield from hold(tape, call, section.separator)):
        return "", "", ""
    if (yield from tape.peek()) == "{":
        return name, "", ""
    # What came first was the call's type.
    name = yield from name_of(tape, call.hold)
    fenced = name and (yield from hold(tape, call, FENCE))
    return (name, "", END_FENCE) if fenced else ("", "", "")


def _kimi_head(tape: Tape, call: Call, section: Section) -> Reading[tuple[str, str, str]]:
    call.hold((yield from spaces(tape)))
    id = yield from name_of(tape, call.hold)
    if not (yield from hold(tape, call, section.separator)):
        return "", "", ""
    named = KIMI_ID.fullmatch(id)
    return (named[1], id, "") if named else (id, "", "")
