"""Keeps the texts of special tokens that a caller wrote apart from those that the template writes.

A template joins both to one text, and a tokenizer recognizes special tokens wherever their texts are. So before it is
rendered, each of them in the caller's strings is broken by a mark, a character that is nowhere else; what is whole in
the rendered text is then the template's.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from router_service.text.chats.conversation import ROLES, Conversation
from router_service.text.chats.template_fields import ChatFieldError, strings_mapped

# Noncharacters of Unicode, which no text needs and no tokenizer's normalizer changes.
MARKS = tuple(chr(code) for code in range(0xFDD3, 0xFDDE))
# Of a control, where it may be cut in two strings; and that controls have in common. Published ones are shorter.
MAX_PART = 64
# What no caller writes, but we do.
OURS = frozenset(
    (*ROLES, "role", "content", "type", "text", "name", "tool_calls", "tool_call_id", "reasoning_content", "thinking")
) | {"id", "function", "arguments", "description", "parameters"}
MAX_SHARED = 16
# The second bar is DeepSeek's, a full-width one.
IN_BARS = re.compile("<[|\uff5c].+[|\uff5c]>", re.DOTALL)


def controls_of(added: Mapping[str, tuple[int, bool]]) -> dict[str, int]:
    """Return the control tokens among added ones (id, whether it is special), by their text.

    Roles are not special tokens everywhere: DeepSeek's are not. Tags such as <think>, which answers have as text and
    prompts quote, are none. One character cannot be broken, and no published one is a marker.
    """
    return {text: id for text, (id, special) in added.items() if len(text) > 1 and (special or IN_BARS.fullmatch(text))}


class SpecialTexts:
    """Finds the texts of `controls`."""

    def __init__(self, controls: Mapping[str, int]) -> None:
        self._controls = dict(controls)
        self._found = re.compile(_pattern_of(controls) if controls else "(?!)")
        # An ending of one character, such as >, is that of too many texts.
        parts = [(text, length) for text in controls for length in range(1, min(len(text), MAX_PART + 1))]
        self._beginnings = frozenset(text[:length] for text, length in parts)
        self._endings = frozenset(text[-length:] for text, length in parts if length > 1)
        self._firsts = frozenset(text[0] for text in controls)
        self._lasts = frozenset(text[-1] for text in controls)

    def marked(self, conversation: Conversation) -> tuple[Conversation, str]:
        """Break the controls' texts in all strings of a conversation; return it with the mark, "" if it has none.

        Raises:
            ChatFieldError: no character is left for a mark.
        """
        fields = {name: getattr(conversation, name) for name in ("messages", "tools", "documents", "kwargs")}
        strings = list(_strings(list(fields.values())))
        if not any(self._concerns(text) for text in strings):
            return conversation, ""
        mark = _unused(strings)
        changed = {name: strings_mapped(value, lambda text: self._broken(text, mark)) for name, value in fields.items()}
        return replace(conversation, **changed), mark

    def split(self, text: str, mark: str) -> list[str | int]:
        """Return a rendered text in parts: texts without marks, and the ids of the template's own controls."""
        parts: list[str | int] = []
        end = 0
        for match in self._found.finditer(text):
            parts += [unmarked(text[end : match.start()], mark), self._controls[match[0]]]
            end = match.end()
        return [*parts, unmarked(text[end:], mark)]

    def _concerns(self, text: str) -> bool:
        return text not in OURS and bool(self._found.search(text) or self._opens(text) or self._closes(text))

    def _broken(self, text: str, mark: str) -> str:
        if text in OURS:
            return text
        # Breaking one can leave another one that overlapped it.
        while self._found.search(text):
            text = self._found.sub(lambda match: match[0][0] + mark + match[0][1:], text)
        return (mark if self._closes(text) else "") + text + (mark if self._opens(text) else "")

    def _opens(self, text: str) -> bool:
        """Whether `text` ends with the beginning of a control, which what is written behind it could complete."""
        tail = text[-MAX_PART:]
        return any(tail[at:] in self._beginnings for at, first in enumerate(tail) if first in self._firsts)

    def _closes(self, text: str) -> bool:
        """Whether `text` begins with the end of a control, which could complete what is written before it."""
        head = text[:MAX_PART]
        return any(head[: at + 1] in self._endings for at, last in enumerate(head) if last in self._lasts)


def unmarked(text: str, mark: str) -> str:
    """Return `text` without the mark, also where the template has spelled it as JSON or Python do."""
    return text.replace(mark, "").replace(_spelled(mark), "") if mark else text


def _spelled(mark: str) -> str:
    return f"\\u{ord(mark):04x}"


def _unused(strings: list[str]) -> str:
    """Return a mark that is in no string, however it is spelled.

    Raises:
        ChatFieldError: there is none.
    """
    for mark in MARKS:
        if not any(mark in text or _spelled(mark) in text for text in strings):
            return mark
    raise ChatFieldError("chat", "has special tokens' texts and all of U+FDD3 to U+FDDD; leave one of them out")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _pattern_of(texts: Iterable[str], shared: int = MAX_SHARED) -> str:
    """Return a regular expression of the longest of `texts` at a place; their common beginnings are tried once."""
    rests: dict[str, list[str]] = {}
    for text in sorted(texts, key=len, reverse=True):
        rests.setdefault(text[:1], []).append(text[1:])
    if not shared or max(map(len, rests.values())) == 1:
        return "(?:" + "|".join(re.escape(first + rest) for first, some in rests.items() for rest in some) + ")"
    optional = "?" if rests.pop("", None) else ""
    return (
        "(?:"
        + "|".join(re.escape(first) + _pattern_of(some, shared - 1) for first, some in rests.items())
        + ")"
        + optional
    )
