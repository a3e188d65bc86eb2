"""Builds grammars in llguidance's dialect of Lark."""

import json
import re
from collections.abc import Mapping
from typing import Any

# llguidance's own is unbounded, so that a model can go on with white space for ever.
WHITE_SPACE = r"[\x20\x0A\x0D\x09]{1,32}"
GUIDANCE = {"whitespace_pattern": WHITE_SPACE, "lenient": False}
ANY_TEXT = "/(?s:.*)/"


class Lark:
    """Rules of a grammar. `special` are the markers that are special tokens, with their ids: no text matches those."""

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        self._split = re.compile("(" + "|".join(re.escape(text) for text in special) + ")") if special else None
        self._rules: list[str] = []

    def literal(self, text: str) -> str:
        """Return an expression of exactly `text`, with its special tokens."""
        parts = self._split.split(text) if self._split else [text]
        return " ".join(self._token(part) for part in parts if part)

    def has(self, text: str) -> bool:
        """Return whether `text` is a special token."""
        return text in self._special

    def _token(self, text: str) -> str:
        return f"<[{self._special[text]}]>" if text in self._special else json.dumps(text, ensure_ascii=False)

    def rule(self, expression: str, attributes: str = "") -> str:
        """Add a rule and return its name."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{attributes}: {expression}")
        return name

    def schema(self, schema: Any) -> str:
        """Add a rule of JSON that a JSON Schema accepts, and return its name."""
        given = schema if isinstance(schema, dict) else {} if schema is True else {"not": {}}
        return self.rule("%json " + json.dumps({**given, "x-guidance": GUIDANCE}, ensure_ascii=False))

    def up_to(self, closing: str) -> str:
        """Add a rule of any text up to and with `closing`, and return its name."""
        if closing in self._special:
            return self.rule(f"{ANY_TEXT} {self.literal(closing)}")
        return self.rule(ANY_TEXT, f"[suffix={json.dumps(closing, ensure_ascii=False)}]")

    def text(self, start: str) -> str:
        """Return the grammar whose answers are the expression `start`."""
        return "\n".join([f"start: {start}", *self._rules]) + "\n"


def any_of(expressions: list[str]) -> str:
    """Return an expression of one of these."""
    return "(" + " | ".join(expressions) + ")"


def list_of(item: str, separator: str, several: bool) -> str:
    """Return an expression of an item, or where there may be `several` of one or more with separators between."""
    return f"{item} ({separator} {item})*" if several else item


def regex(pattern: str) -> str:
    """Return an expression of what a regular expression matches as a whole."""
    # A slash would end it, escaped or not, and so would a line break.
    escaped = re.sub(r"\\/|/", r"\\x2F", pattern).replace("\n", r"\n")
    return f"/{escaped}/"
