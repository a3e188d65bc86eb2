"""Reasoning between two tags at the start of an answer."""

from dataclasses import dataclass
from enum import Enum

from router_service.front.parsing.literals import SPACE, Markers, until
from router_service.front.parsing.tape import Kind, Reading, Tape
from router_service.protocol import inference_pb2 as pb

# Behind more whitespace an answer's tag is text, so that the whitespace is not read over and over.
MAX_LEAD = 64


class Start(Enum):
    """Where an answer starts, by the end of its prompt."""

    WITHIN = "within the reasoning"
    BEHIND = "behind the reasoning"
    # The answer may start with reasoning.
    BEFORE = "before the reasoning"


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags around the reasoning, as texts.

    `implicit`: where the prompt says nothing, an answer is within the reasoning even if it does not start with
    `opening`, as DeepSeek R1's may. `ends` are markers that end the reasoning too, and belong to what follows.
    """

    opening: str
    closing: str
    implicit: bool = False
    ends: tuple[str, ...] = ()

    def start(self, prompt: str, chat: pb.Chat) -> Start:
        """Return where the answer to `chat`, rendered as `prompt`, starts."""
        end = prompt.rstrip(SPACE)
        if end.endswith(self.opening):
            return Start.WITHIN
        if end.endswith(self.closing):
            return Start.BEHIND
        if chat.continue_final_message:
            return Start.WITHIN if end.rfind(self.opening) > end.rfind(self.closing) else Start.BEHIND
        if not self.implicit:
            return Start.BEFORE
        # Behind a tool's answer DeepSeek-V3.1's turn goes on, whose reasoning its template has closed before.
        return Start.BEHIND if prompt.count(self.closing) > _said(chat, self.closing) else Start.BEFORE


def _said(chat: pb.Chat, text: str) -> int:
    """Return how often `text` is in what the chat's messages say, where it is nobody's marker."""
    parts = (part.text for message in chat.messages for part in message.parts)
    return sum(said.count(text) for said in (*(message.content for message in chat.messages), *parts))


def read_reasoning(tape: Tape, tags: Tags, start: Start) -> Reading[None]:
    """Read up to where the content starts. The reasoning keeps its whitespace, and so does the content, as in vLLM."""
    if start is Start.BEHIND:
        return
    if not (yield from _opens(tape, tags, start)):
        return
    tape.reasoning = True
    marker = yield from until(tape, Markers(tags.closing, *tags.ends), lambda text: tape.emit(Kind.REASONING, text))
    tape.reasoning = not marker
    if marker == tags.closing:
        tape.emit(Kind.MARKER, tape.take(len(marker)))


def _opens(tape: Tape, tags: Tags, start: Start) -> Reading[bool]:
    """Take the opening tag, which a model may write again where the prompt has it, with the whitespace before it."""
    tape.reasoning = start is Start.WITHIN
    while True:
        text, position = tape.rest
        ahead = text[position:].lstrip(SPACE)
        lead = len(text) - position - len(ahead)
        if lead <= MAX_LEAD and ahead.startswith(tags.opening):
            tape.emit(Kind.MARKER, tape.take(lead + len(tags.opening)))
            return True
        if tape.ended or lead > MAX_LEAD or not tags.opening.startswith(ahead):
            return start is Start.WITHIN or tags.implicit
        yield
