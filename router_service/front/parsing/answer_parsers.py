"""The parsers of a model's answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router_service.front.errors import invalid
from router_service.front.parsing.call_object import is_name
from router_service.front.parsing.calls import Calls, random_id
from router_service.front.parsing.choice import chosen
from router_service.front.parsing.forms import HARMONY_REASONING, HARMONY_TOOLS, REASONING, TOOLS, markers_of
from router_service.front.parsing.grammars.binding import Binding
from router_service.front.parsing.literals import Markers
from router_service.front.parsing.piece_parser import PieceParser
from router_service.front.parsing.reasoning import Start, read_reasoning
from router_service.front.parsing.tape import Reading, Tape
from router_service.front.parsing.tools.harmony import Harmony
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Structured
from router_service.text.tokenizer import Tokenizer

NOTHING = Markers()
NO_TOOLS = (
    "the model's chat template calls no tools, so none can be demanded: leave it out, or serve with --tool-parser"
)


@dataclass(frozen=True, slots=True)
class AnswerParsers:
    """What takes reasoning and tool calls out of the answers of one model.

    `reasoning` and `tools` are the parsers' names, "" where nothing is taken out. `special` are the markers that are
    special tokens of the model's tokenizer, with their ids.
    """

    reasoning: str
    tools: str
    special: Mapping[str, int] = field(default_factory=dict)

    @property
    def marker_ids(self) -> frozenset[int]:
        """The special tokens whose text a parser must see; those of no other special token are text."""
        return frozenset(self.special.values())

    def open(self, chat: pb.Chat, prompt_text: str) -> PieceParser | None:
        """Return a parser of one answer to `chat`, rendered as `prompt_text`; None if all of the answer is content."""
        takes = bool(self.tools) and takes_calls(chat)
        if self.tools == HARMONY_TOOLS or self.reasoning == HARMONY_REASONING:
            return self._harmony(chat, takes, prompt_text)
        tags = REASONING.get(self.reasoning)
        start = tags.start(prompt_text, chat) if tags else Start.BEHIND
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
        """Return what an answer must be: calls where a tool must be called, else `structured` behind the reasoning.

        Where a call is free, also of tools that are `strict`, nothing binds it. `structured` comes back as it is where
        nothing stands before it.

        Raises:
            RequestError: INVALID_ARGUMENT if a tool must be called and the model has no form of calls.
        """
        binding = Binding(self.reasoning, self.tools, self.special)
        choice, named = chat.tool_choice, chat.tool_choice.mode == pb.ToolChoice.NAMED
        if named or choice.mode == pb.ToolChoice.REQUIRED:
            if not self.tools:
                raise invalid("chat.tool_choice", NO_TOOLS)
            functions = [one for one in functions_of(chat) if not named or one["name"] == choice.name]
            return binding.calls(functions, not named and calls_several(chat), prompt_text, chat)
        return binding.form(structured, prompt_text, chat) if structured else None

    def _harmony(self, chat: pb.Chat, takes: bool, prompt_text: str) -> PieceParser | None:
        if not takes and not self.reasoning:
            return None
        harmony = Harmony(bool(self.reasoning), takes, prompt_text)
        return PieceParser(lambda tape: harmony.read(tape, calls_of(chat, tape, self.tools)))


def takes_calls(chat: pb.Chat) -> bool:
    """Return whether an answer to `chat` may call tools."""
    return bool(chat.tools) and chat.tool_choice.mode != pb.ToolChoice.NONE


def calls_several(chat: pb.Chat) -> bool:
    """Return whether one answer to `chat` may call several tools."""
    return chat.parallel_tool_calls or not chat.HasField("parallel_tool_calls")


def calls_of(chat: pb.Chat, tape: Tape, tools: str) -> Calls:
    """Return the calls, none yet, of an answer to `chat`; `tools` names their form."""
    schemas = {str(function["name"]): function.get("parameters") for function in functions_of(chat)}
    make_id = TOOLS[tools].make_id if tools in TOOLS else random_id
    return Calls(tape, frozenset(schemas), calls_several(chat), make_id, schemas=schemas)


def functions_of(chat: pb.Chat) -> list[dict[str, Any]]:
    """Return what the chat's tools say of their functions, of those with a name."""
    tools = (json.loads(tool) for tool in chat.tools)
    functions = (tool.get("function") for tool in tools if isinstance(tool, dict))
    return [one for one in functions if isinstance(one, dict) and is_name(str(one.get("name", "")))]


def parsers_of(
    family: str, reasoning: str = "auto", tools: str = "auto", template: str = "", tokenizer: Tokenizer | None = None
) -> AnswerParsers:
    """Return the parsers of a model of this `family`, by its chat `template`'s text or by the names given.

    "none" takes nothing out. Without `tokenizer` no marker is taken for a special token.

    Raises:
        ValueError: there is no parser of a name, or the two do not go together.
    """
    names = chosen(family, reasoning, tools, template)
    ids = {text: tokenizer.id_of(text) for text in markers_of(*names)} if tokenizer else {}
    special = tokenizer.special_ids if tokenizer else frozenset()
    return AnswerParsers(*names, {text: id for text, id in ids.items() if id is not None and id in special})
