"""Parses answers in tests, cut anywhere."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from router_service.front.parsing.answer_parsers import AnswerParsers
from router_service.front.parsing.tape import Kind, Piece
from router_service.protocol import inference_pb2 as pb

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "options": {"type": "object", "properties": {"wind": {"type": "boolean"}}, "additionalProperties": False},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}


@dataclass
class Answer:
    """What of an answer a client gets: each call's name and arguments in `calls`, its id in `ids`."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


def chat_with(*functions: dict[str, Any], **fields: Any) -> pb.Chat:
    """Return a chat with tools of these functions."""
    return pb.Chat(tools=[json.dumps({"type": "function", "function": function}) for function in functions], **fields)


CHAT = chat_with(WEATHER, CLOCK)


def cut(text: str, step: int) -> list[str]:
    """Return `text` in pieces of `step` characters."""
    return [text[start : start + step] for start in range(0, len(text), step)]


def answer_of(parsers: AnswerParsers, pieces: Iterable[str], chat: pb.Chat = CHAT, prompt: str = "") -> Answer:
    """Parse an answer that comes in these pieces."""
    parser = parsers.open(chat, prompt)
    if parser is None:
        return Answer("".join(pieces))
    answer = Answer()
    for parsed in [*map(parser.push, pieces), parser.flush()]:
        answer.content += parsed.content
        answer.reasoning += parsed.reasoning
        for delta in parsed.calls:
            if delta.name:
                assert delta.index == len(answer.calls)
                answer.calls.append((delta.name, ""))
                answer.ids.append(delta.id)
            name, arguments = answer.calls[delta.index]
            answer.calls[delta.index] = name, arguments + delta.arguments
    assert parser.called == bool(answer.calls)
    assert not parser.reasoning or answer.reasoning or not answer.content
    return answer


def pieces_of(parsers: AnswerParsers, pieces: Iterable[str], chat: pb.Chat = CHAT, prompt: str = "") -> list[Piece]:
    """Return what all characters of an answer are."""
    parser = parsers.open(chat, prompt)
    if parser is None:
        return [Piece(Kind.CONTENT, "".join(pieces))]
    found = [piece for part in pieces for piece in parser.read(part)]
    return found + parser.end()


def raw_of(pieces: Iterable[Piece], *kinds: Kind) -> str:
    """Return the characters of `pieces`, or of those of some kinds."""
    return "".join(piece.raw for piece in pieces if not kinds or piece.kind in kinds)
