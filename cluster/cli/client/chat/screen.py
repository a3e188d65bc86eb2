"""How an answer is shown as it comes: reasoning dimmed, tool calls, and nothing that a terminal would obey."""

import os
from collections.abc import Mapping
from typing import TextIO

from router_service.protocol import inference_pb2 as pb

DIM, CYAN, RESET = "\x1b[2m", "\x1b[36m", "\x1b[0m"
# Where there are no colours.
HEADINGS = {"reasoning": "(reasoning)\n", "text": "(answer)\n"}


def wants_colours(out: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether to colour what is written to `out`: only a terminal, and not if NO_COLOR (no-color.org) is set."""
    return out.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


class Screen:
    """Writes answers to `out`, one after the other; each ends with `end`."""

    def __init__(self, out: TextIO, *, colours: bool, reasoning: bool) -> None:
        """`reasoning` says whether it is shown at all."""
        self._out = out
        self._colours = colours
        self._reasoning = reasoning
        self._terminal = out.isatty()
        self._part = ""  # reasoning, text, or a call's number
        self._reasoned = False
        self._last = ""

    def show(self, response: pb.GenerateResponse) -> None:
        """Write what a response has."""
        if response.reasoning and self._reasoning:
            self._begin("reasoning", DIM)
            self._write(response.reasoning)
        if response.text:
            self._begin("text")
            self._write(response.text)
        for delta in response.tool_calls:
            self._call(delta)
        self._out.flush()

    def end(self, note: str = "") -> None:
        """End the answer's line; a terminal is told a note on how it ended."""
        self._close()
        self._put(f"{self._styled(f'[{note}]', DIM)}\n" if note and self._terminal else "")
        self._part, self._reasoned = "", False
        self._out.flush()

    def say(self, text: str) -> None:
        """Write a line that is not of an answer."""
        self._put(self._styled(self._visible(text), DIM) + "\n")
        self._out.flush()

    def _call(self, delta: pb.ToolCallDelta) -> None:
        if self._begin(f"call {delta.index}", CYAN):
            self._put("-> ")
        # The name comes with a call's first delta only.
        self._write(f"{delta.name} " if delta.name else "")
        self._write(delta.arguments)

    def _begin(self, part: str, style: str = "") -> bool:
        """Begin a part on a line of its own, unless it is the one that was; return whether it was begun."""
        if part == self._part:
            return False
        self._close()
        self._part, self._last = part, ""
        self._reasoned |= part == "reasoning"
        if self._colours:
            self._put(style)
        elif self._reasoned:
            self._put(HEADINGS.get(part, ""))
        return True

    def _close(self) -> None:
        """End the part's line and its style."""
        if self._part:
            self._put((RESET if self._colours else "") + ("" if self._last == "\n" else "\n"))

    def _write(self, text: str) -> None:
        self._last = text[-1:] or self._last
        self._put(self._visible(text))

    def _visible(self, text: str) -> str:
        """On a terminal, make visible what it would obey: a model may say anything."""
        if not self._terminal:
            return text
        return "".join(c if c in "\n\t" or not _controls(c) else repr(c)[1:-1] for c in text)

    def _styled(self, text: str, style: str) -> str:
        return f"{style}{text}{RESET}" if self._colours else text

    def _put(self, text: str) -> None:
        self._out.write(text)


def _controls(character: str) -> bool:
    """Whether it is one of Unicode's control characters (C0, DEL, C1)."""
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0
