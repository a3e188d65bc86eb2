"""gpt-oss's answers: messages on channels, one of which is reasoning, and calls as messages to functions."""

import re
from dataclasses import dataclass

from router_service.front.parsing.call_object import json_arguments
from router_service.front.parsing.calls import Call, Calls
from router_service.front.parsing.literals import Markers, matches, name_of, spaces, until
from router_service.front.parsing.tape import Kind, Reading, Tape

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
MARKERS = (START, CHANNEL, CONSTRAIN, MESSAGE, END, CALL, RETURN)
OPENERS = Markers(START, CHANNEL, MESSAGE)
ENDS = (END, CALL, RETURN)
BODY_ENDS = Markers(*ENDS, START, CHANNEL)
HEADER_MARKERS, RECIPIENT = (START, CHANNEL, CONSTRAIN, MESSAGE), "to="
WORD = re.compile(r"[\w.:/=-]*")
ANALYSIS, FUNCTIONS = "analysis", "functions."
# A header with more characters is text.
MAX_HEADER = 512


@dataclass(frozen=True, slots=True)
class Header:
    """What a message says of itself: its channel, and to whom it goes ("" for the user)."""

    channel: str = ""
    recipient: str = ""


@dataclass(frozen=True, slots=True)
class Harmony:
    """How messages are read: whether reasoning is taken out, and calls; `prompt` is the rendered prompt's end."""

    reasoning: bool
    calls: bool
    prompt: str

    def read(self, tape: Tape, calls: Calls) -> Reading[None]:
        """Read messages; what is in none is content."""
        begun = started(self.prompt)
        if MESSAGE in begun:
            yield from self._body(tape, calls.begin(""), header_of(begun.partition(MESSAGE)[0]))
            begun = ""
        lead = ""
        while True:
            call = calls.begin(lead)
            header = yield from _header(tape, call, begun)
            if header:
                yield from self._body(tape, call, header)
            else:
                call.refuse()
            begun = ""
            lead, opener = yield from calls.prose(OPENERS)
            if not opener:
                return

    def _body(self, tape: Tape, call: Call, header: Header) -> Reading[None]:
        function = header.recipient.removeprefix(FUNCTIONS) if header.recipient.startswith(FUNCTIONS) else ""
        if function and self.calls and (yield from tape.peek()) == "{":
            call.open(function)
            # Markers may stand in a string.
            yield from json_arguments(tape, call, BODY_ENDS)
            call.hold((yield from spaces(tape)))
            yield from until(tape, BODY_ENDS, call.content)
            call.hold((yield from _marker(tape, ENDS)))
        elif header.channel == ANALYSIS and self.reasoning and not (function and self.calls):
            call.drop()
            tape.reasoning = True
            yield from until(tape, BODY_ENDS, call.reasoning)
            tape.emit(Kind.MARKER, (yield from _marker(tape, ENDS)))
            tape.reasoning = False
        elif header.recipient or header.channel == ANALYSIS:
            # To nobody here, or what is not to be taken out: as it was generated.
            call.refuse()
            yield from until(tape, BODY_ENDS, call.content)
            call.content((yield from _marker(tape, ENDS)))
        else:
            call.drop()
            yield from until(tape, BODY_ENDS, call.content)
            tape.emit(Kind.MARKER, (yield from _marker(tape, ENDS)))


def started(prompt: str) -> str:
    """Return what of the answer's first message is in a rendered prompt, without <|start|>."""
    return prompt.rpartition(START)[2] if START in prompt else ""


def header_of(text: str) -> Header:
    """Return what a header says, from behind <|start|> up to <|message|>."""
    channel = re.search(re.escape(CHANNEL) + r"\s*([\w.-]+)", text)
    recipient = re.search(r"\bto=([\w.:/-]+)", text)
    return Header(channel[1] if channel else "", recipient[1] if recipient else "")


def _header(tape: Tape, call: Call, started: str) -> Reading[Header | None]:
    """Take a header whose first part, `started`, may be in the prompt; None where none comes or it does not end."""
    parts = [started]

    def sink(text: str) -> None:
        parts.append(text)
        call.hold(text)

    # Words alone are text, unless they say to whom it goes: where the prompt has the role, that may stand first.
    within = CHANNEL in started
    while sum(map(len, parts)) <= MAX_HEADER:
        sink((yield from spaces(tape)))
        marker = yield from _marker(tape, HEADER_MARKERS if within else (*HEADER_MARKERS, RECIPIENT))
        sink(marker)
        if marker == MESSAGE:
            return header_of("".join(parts))
        if not marker and not (within and (yield from name_of(tape, sink, WORD))):
            break
        within = True
    return None


def _marker(tape: Tape, markers: tuple[str, ...]) -> Reading[str]:
    """Take one of `markers` if it comes next, else nothing."""
    for marker in markers:
        if (yield from matches(tape, marker)):
            return marker
    return ""
