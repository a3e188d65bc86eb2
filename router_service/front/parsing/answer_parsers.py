"""The parsers of a model's answers."""

import json
from dataclasses import dataclass
from typing import Any

from router_service.front.parsing.calls import Calls
from router_service.front.parsing.choice import reasoning_name, tool_name
from router_service.front.parsing.forms import REASONING, TOOLS
from router_service.front.parsing.literals import Markers
from router_service.front.parsing.piece_parser import PieceParser
from router_service.front.parsing.reasoning import Start, read_reasoning
from router_service.front.parsing.tape import Reading, Tape
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Structured
from router_service.text.tokenizer import Tokenizer

NOTHING = Markers()


@dataclass(frozen=True, slots=True)
class AnswerParsers:
    """What takes reasoning and tool calls out of the answers of one model; names are "" where nothing does.

    `marker_ids` are the special tokens whose text a parser must see; those of no other special token are text.
    """

    reasoning: str
    tools: str
    marker_ids: frozenset[int] = frozenset()

    def open(self, chat: pb.Chat, prompt_text: str) -> PieceParser | None:
        """Return a parser of one answer to `chat`, rendered as `prompt_text`; None if all of the answer is content."""
        form = TOOLS[self.tools] if self.tools and takes_calls(chat) else None
        tags = REASONING.get(self.reasoning)
        start = tags.start(prompt_text, chat.continue_final_message) if tags else Start.BEHIND
        if form is None and start is Start.BEHIND:
            return None

        def read(tape: Tape) -> Reading[None]:
            if tags:
                yield from read_reasoning(tape, tags, start)
            calls = calls_of(chat, tape)
            if form:
                calls.make_id = form.make_id
                yield from form.read(tape, calls)
            else:
                yield from calls.prose(NOTHING)

        return PieceParser(read)

    def bound(self, chat: pb.Chat, structured: Structured | None, prompt_text: str) -> Structured | None:
        """Return what an answer to `chat` must be, where it must call a tool or `structured` stands behind reasoning."""
        return structured


def takes_calls(chat: pb.Chat) -> bool:
    """Return whether an answer to `chat` may call tools."""
    return bool(chat.tools) and chat.tool_choice.mode != pb.ToolChoice.NONE


def calls_of(chat: pb.Chat, tape: Tape) -> Calls:
    """Return the calls, none yet, of an answer to `chat`."""
    schemas = {str(function.get("name")): function.get("parameters") for function in functions_of(chat)}
    parallel = chat.parallel_tool_calls or not chat.HasField("parallel_tool_calls")
    return Calls(tape, frozenset(schemas), parallel, schemas=schemas)


def functions_of(chat: pb.Chat) -> list[dict[str, Any]]:
    """Return what the chat's tools say of their functions."""
    tools = [json.loads(tool) for tool in chat.tools]
    return [tool["function"] for tool in tools if isinstance(tool, dict) and isinstance(tool.get("function"), dict)]


def parsers_of(
    family: str, reasoning: str = "auto", tools: str = "auto", template: str = "", tokenizer: Tokenizer | None = None
) -> AnswerParsers:
    """Return the parsers of a model: of its `family`, by its chat `template`'s text, or of the names given.

    "none" takes nothing out. Without `tokenizer` no marker is taken for a special token.

    Raises:
        ValueError: there is no parser of that name.
    """
    names = reasoning_name(family, reasoning, template), tool_name(family, tools, template)
    texts: list[str] = []
    if tags := REASONING.get(names[0]):
        texts += [tags.opening, tags.closing, *tags.ends]
    if form := TOOLS.get(names[1]):
        texts += form.markers
    ids = {tokenizer.id_of(text) for text in texts} if tokenizer else set()
    special = tokenizer.special_ids if tokenizer else frozenset()
    return AnswerParsers(*names, frozenset(id for id in ids if id is not None and id in special))
