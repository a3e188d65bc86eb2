"""The parsers of a model's answers."""

import json
from dataclasses import dataclass
from typing import Any

from router_service.front.parsing.calls import Calls, random_id
from router_service.front.parsing.choice import chosen
from router_service.front.parsing.forms import HARMONY_REASONING, HARMONY_TOOLS, REASONING, TOOLS, markers_of
from router_service.front.parsing.literals import Markers
from router_service.front.parsing.piece_parser import PieceParser
from router_service.front.parsing.reasoning import Start, read_reasoning
from router_service.front.parsing.tape import Reading, Tape
from router_service.front.parsing.tools.harmony import Harmony
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Structured
from router_service.text.tokenizer import Tokenizer

NOTHING = Markers()


@dataclass(frozen=True, slots=True)
class AnswerParsers:
    """What takes reasoning and tool calls out of the answers of one model.

    `reasoning` and `tools` are the parsers' names, "" where nothing is taken out. `marker_ids` are the special tokens
    whose text a parser must see; those of no other special token are text.
    """

    reasoning: str
    tools: str
    marker_ids: frozenset[int] = frozenset()

    def open(self, chat: pb.Chat, prompt_text: str) -> PieceParser | None:
        """Return a parser of one answer to `chat`, rendered as `prompt_text`; None if all of the answer is content."""
        takes = bool(self.tools) and takes_calls(chat)
        if self.tools == HARMONY_TOOLS or self.reasoning == HARMONY_REASONING:
            return self._harmony(chat, takes, prompt_text)
        tags = REASONING.get(self.reasoning)
        start = tags.start(prompt_text, chat.continue_final_message) if tags else Start.BEHIND
        if not takes and start is Start.BEHIND:
            return None

        def read(tape: Tape) -> Reading[None]:
            if tags:
                yield from read_reasoning(tape, tags, start)
            calls = calls_of(chat, tape, self.tools)
            if takes:
                yield from TOOLS[self.tools].read(tape, calls)
            else:
                yield from calls.prose(NOTHING)

        return PieceParser(read)

    def bound(self, chat: pb.Chat, structured: Structured | None, prompt_text: str) -> Structured | None:
        """Return what an answer must be where it must call a tool, or where reasoning stands before its form."""
        return structured

    def _harmony(self, chat: pb.Chat, takes: bool, prompt_text: str) -> PieceParser | None:
        if not takes and not self.reasoning:
            return None
        harmony = Harmony(bool(self.reasoning), takes, prompt_text)
        return PieceParser(lambda tape: harmony.read(tape, calls_of(chat, tape, self.tools)))


def takes_calls(chat: pb.Chat) -> bool:
    """Return whether an answer to `chat` may call tools."""
    return bool(chat.tools) and chat.tool_choice.mode != pb.ToolChoice.NONE


def calls_of(chat: pb.Chat, tape: Tape, tools: str) -> Calls:
    """Return the calls, none yet, of an answer to `chat`; `tools` names their form."""
    schemas = {str(function.get("name")): function.get("parameters") for function in functions_of(chat)}
    parallel = chat.parallel_tool_calls or not chat.HasField("parallel_tool_calls")
    make_id = TOOLS[tools].make_id if tools in TOOLS else random_id
    return Calls(tape, frozenset(schemas), parallel, make_id, schemas=schemas)


def functions_of(chat: pb.Chat) -> list[dict[str, Any]]:
    """Return what the chat's tools say of their functions."""
    tools = [json.loads(tool) for tool in chat.tools]
    return [tool["function"] for tool in tools if isinstance(tool, dict) and isinstance(tool.get("function"), dict)]


def parsers_of(
    family: str, reasoning: str = "auto", tools: str = "auto", template: str = "", tokenizer: Tokenizer | None = None
) -> AnswerParsers:
    """Return the parsers of a model of this `family`, by its chat `template`'s text or by the names given.

    "none" takes nothing out. Without `tokenizer` no marker is taken for a special token.

    Raises:
        ValueError: there is no parser of a name, or the two do not go together.
    """
    names = chosen(family, reasoning, tools, template)
    ids = {tokenizer.id_of(text) for text in markers_of(*names)} & tokenizer.special_ids if tokenizer else set()
    return AnswerParsers(*names, frozenset(id for id in ids if id is not None))
