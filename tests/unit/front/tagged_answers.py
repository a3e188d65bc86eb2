"""Parsers of a made-up format: <think>reasoning</think> and <call>name:arguments</call> in the text."""

from router_service.front.parsing.parsed import AnswerParser, CallDelta, Parsed
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Structured

# What each part of an answer ends with, and what it may turn into there.
TAGS = {"text": ("<think>", "<call>"), "reasoning": ("</think>",), "name": (":",), "arguments": ("</call>",)}
NEXT = {"<think>": "reasoning", "</think>": "text", "<call>": "name", ":": "arguments", "</call>": "text"}


class TaggedParser:
    """Reads character by character."""

    def __init__(self) -> None:
        self.called = False
        self._part = "text"
        self._held = ""
        self._calls = 0
        self._parsed = Parsed()

    @property
    def reasoning(self) -> bool:
        return self._part == "reasoning"

    def push(self, text: str) -> Parsed:
        for character in text:
            self._read(character)
        parsed, self._parsed = self._parsed, Parsed()
        return parsed

    def flush(self) -> Parsed:
        self._say(self._held)
        self._held = ""
        return self.push("")

    def _read(self, character: str) -> None:
        self._held += character
        if self._held in TAGS[self._part]:
            self._turn(NEXT[self._held])
        while not any(tag.startswith(self._held) for tag in TAGS[self._part]) and self._part != "name":
            self._say(self._held[0])
            self._held = self._held[1:]
        if self._part == "name" and self._held.endswith(":"):
            self._parsed.calls.append(CallDelta(self._calls, f"call-{self._calls}", self._held[:-1]))
            self.called = True
            self._turn("arguments")

    def _turn(self, part: str) -> None:
        self._calls += self._part == "arguments"
        self._part, self._held = part, ""

    def _say(self, text: str) -> None:
        if self._part == "arguments":
            self._parsed.calls.append(CallDelta(self._calls, arguments=text))
        elif self._part == "reasoning":
            self._parsed.reasoning += text
        else:
            self._parsed.content += text


class TaggedAnswers:
    """Opens a parser for chats whose prompt asks for none; notes what it is asked. A chat with tools is bound."""

    reasoning, tools = "think", "call"

    def __init__(self, marker_ids: frozenset[int] = frozenset()) -> None:
        self.marker_ids = marker_ids
        self.prompts: list[str] = []
        self.bound_to: Structured | None = None

    def open(self, chat: pb.Chat, prompt_text: str) -> AnswerParser | None:
        self.prompts.append(prompt_text)
        return None if chat.messages[-1].content == "no parser" else TaggedParser()

    def bound(self, chat: pb.Chat, structured: Structured | None, prompt_text: str) -> Structured | None:
        assert prompt_text
        return self.bound_to if chat.tools else structured
