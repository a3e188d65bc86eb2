"""Where a conversation's turns come from: a terminal with a line editor, or a pipe."""

import sys
from contextlib import suppress
from typing import TextIO

from cluster.cli.client.chat.screen import RESET

BOLD = "\x1b[1m"


class Lines:
    """Reads lines. With a terminal on both sides they are edited, and earlier ones are there by the arrow keys."""

    def __init__(self, source: TextIO | None = None, out: TextIO | None = None) -> None:
        """The standard input and output unless others are given."""
        self._source = source or sys.stdin
        self.interactive = self._source.isatty() and (out or sys.stdout).isatty()
        if self.interactive:
            # input() edits by it as soon as it is imported; some Pythons are built without.
            with suppress(ImportError):
                import readline  # noqa: F401

    def read(self, prompt: str, colours: bool) -> str | None:
        """Return the next line without its end, None at the end of all; only a terminal sees the prompt.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        if not self.interactive:
            line = self._source.readline()
            return line.removesuffix("\n") if line else None
        try:
            return input(_marked(prompt) if colours else prompt)
        except EOFError:
            print()
            return None


def _marked(prompt: str) -> str:
    """Return the prompt in bold; readline counts what is between \\x01 and \\x02 as no columns."""
    return f"\x01{BOLD}\x02{prompt}\x01{RESET}\x02"
