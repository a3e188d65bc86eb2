"""An argument parser whose errors are one line, like all our errors, and that guesses nothing."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from cluster.cli.failing import fail


class OneLineParser(argparse.ArgumentParser):
    """Accepts no abbreviated flags; for an unknown one it suggests the closest."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(  # type: ignore[override]  # typeshed has overloads for other kinds of namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, but what a command does not know is an error of its own parser, which knows its flags."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._closest(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        sys.exit(fail(f"{message} (see {self.prog} --help)"))

    def _closest(self, unknown: Sequence[str]) -> str:
        flags = [flag for action in self._actions for flag in action.option_strings]
        for word in unknown:
            if word.startswith("-") and (close := get_close_matches(word.split("=")[0], flags, 1)):
                return f"; did you mean {close[0]}?"
        return ""
