"""What a parser makes of an answer's text: content, reasoning, tool calls."""

from dataclasses import dataclass, field
from typing import Protocol

from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Structured


@dataclass(frozen=True, slots=True)
class CallDelta:
    """The next piece of the answer's call number `index`; `id` and `name` come with its first piece only."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Parsed:
    """What has become certain since the last call; all of it may be empty."""

    content: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)


class AnswerParser(Protocol):
    """Reads one answer's text in pieces, special tokens included. The result does not depend on how it is cut."""

    @property
    def reasoning(self) -> bool:
        """Whether the text so far ends within the reasoning."""

    @property
    def called(self) -> bool:
        """Whether the answer calls a tool."""

    def push(self, text: str) -> Parsed:
        """Read the next piece; what may be the start of a marker is held back."""

    def flush(self) -> Parsed:
        """Return what is held back, at the end of the answer; a call that never became one is content."""


class AnswerParsers(Protocol):
    """The parsers of a model's answers.

    `reasoning` and `tools` are their names, "" where nothing is taken out. `marker_ids` are the special tokens whose
    text a parser must see; those of no other special token are text.
    """

    @property
    def reasoning(self) -> str:
        """See the class."""

    @property
    def tools(self) -> str:
        """See the class."""

    @property
    def marker_ids(self) -> frozenset[int]:
        """See the class."""

    def open(self, chat: pb.Chat, prompt_text: str) -> AnswerParser | None:
        """Return the parser of an answer to `chat`, whose rendered text is `prompt_text`; None where none is needed."""

    def bound(self, chat: pb.Chat, structured: Structured | None, prompt_text: str) -> Structured | None:
        """Return what an answer to `chat` must be as a whole.

        That is the call that the choice of its tools demands, or `structured` behind the reasoning; None if anything.
        """
