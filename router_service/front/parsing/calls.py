"""Tool calls while they are read, and the text around them."""

import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from router_service.front.parsing.literals import SPACE, Markers, until
from router_service.front.parsing.parsed import CallDelta
from router_service.front.parsing.tape import Kind, Reading, Tape

ALPHANUMERIC = string.ascii_letters + string.digits

MakeId = Callable[[str, int], str]


def random_id(_name: str, _index: int) -> str:
    """Return an id in the form of OpenAI's."""
    return f"call_{secrets.token_hex(12)}"


def short_id(_name: str, _index: int) -> str:
    """Return nine letters and digits, which is all that Mistral's templates take."""
    return "".join(secrets.choice(ALPHANUMERIC) for _ in range(9))


def indexed_id(name: str, index: int) -> str:
    """Return an id as Kimi K2 writes them itself."""
    return f"functions.{name}:{index}"


@dataclass(slots=True)
class Calls:
    """The calls of one answer: `names` are those of the request's tools."""

    tape: Tape
    names: frozenset[str] = frozenset()
    # Else the first call only is given, as vLLM does; the others are left out.
    parallel: bool = True
    make_id: MakeId = random_id
    count: int = 0
    # Whether whitespace waits to see what comes: at the start of the content, and behind a call.
    quiet: bool = True
    # JSON Schemas of the arguments, for forms that do not say their types.
    schemas: dict[str, Any] = field(default_factory=dict)

    def begin(self, raw: str) -> "Call":
        """Return a call that begins with the characters `raw`."""
        return Call(self, raw)

    def prose(self, openers: Markers, lead: str = "") -> Reading[tuple[str, str]]:
        """Read content up to an opener; return the whitespace that waits and the opener, not taken, "" at the end.

        Whitespace at the start of the content or behind a call is content only if other text follows it, or no call
        came before. `lead` is such that was read already.
        """

        def sink(text: str) -> None:
            nonlocal lead
            if self.quiet and not text.strip(SPACE):
                lead += text
                return
            self.tape.emit(Kind.CONTENT, lead + text)
            self.quiet, lead = False, ""

        marker = yield from until(self.tape, openers, sink)
        if not marker:
            self.tape.emit(Kind.MARKER if self.count else Kind.CONTENT, lead)
        return lead, marker


class Call:
    """What is being read as a call: text until `open`, when its name is known and its arguments begin."""

    def __init__(self, calls: Calls, raw: str) -> None:
        self._calls, self._held = calls, [raw]
        self._kind = Kind.CALL
        self.opened = False
        self._index = 0

    def hold(self, raw: str) -> None:
        """Add characters that are not of the arguments."""
        if self.opened:
            self._calls.tape.emit(self._kind, raw)
        elif raw:
            self._held.append(raw)

    def open(self, name: str, id: str = "") -> None:
        """From here on it is a call; `id` if the model has written one."""
        calls = self._calls
        self.opened, self._index = True, calls.count
        calls.count, calls.quiet = calls.count + 1, True
        left_out = self._index > 0 and not calls.parallel
        self._kind = Kind.LEFT_OUT if left_out else Kind.CALL
        delta = CallDelta(self._index, id or calls.make_id(name, self._index), name)
        calls.tape.emit(self._kind, "".join(self._held), None if left_out else delta)

    def arguments(self, text: str, raw: str | None = None) -> None:
        """Add characters of the arguments' JSON, `raw` as they were generated if that differs."""
        delta = CallDelta(self._index, arguments=text) if self._kind is Kind.CALL and text else None
        self._calls.tape.emit(self._kind, text if raw is None else raw, delta)

    def content(self, text: str) -> None:
        """Add text that belongs to no call, behind this one."""
        self._calls.tape.emit(Kind.CONTENT, text)

    def reasoning(self, text: str) -> None:
        """Add reasoning behind what was read."""
        self._calls.tape.emit(Kind.REASONING, text)

    def drop(self) -> None:
        """It is a marker behind calls, which nobody is given."""
        self._calls.tape.emit(Kind.MARKER, "".join(self._held))

    def refuse(self) -> None:
        """It is no call: all of it is content."""
        raw = "".join(self._held)
        self._held = []
        if raw.strip(SPACE):
            self._calls.quiet = False
        self._calls.tape.emit(Kind.CONTENT, raw)
