"""What an answer must be as a whole: reasoning, where there may be some, and then calls or a form."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router_service.front.parsing.forms import HARMONY_REASONING, HARMONY_TOOLS, REASONING
from router_service.front.parsing.grammars.calls import CALLS, Function, schema_of
from router_service.front.parsing.grammars.lark import Lark, any_of, regex
from router_service.front.parsing.reasoning import Start
from router_service.front.parsing.tools.harmony import CHANNEL, CONSTRAIN, END, MESSAGE, START, started
from router_service.protocol import inference_pb2 as pb
from router_service.protocol.messages import Structured

# What models write between their reasoning and what follows; where that must match exactly, they may not.
GAP = "/[ \\n]{1,2}/?"


@dataclass(frozen=True, slots=True)
class Binding:
    """A model's forms: names of its parsers, and its markers that are special tokens, with their ids."""

    reasoning: str
    tools: str
    special: Mapping[str, int]

    def calls(self, functions: Sequence[Function], several: bool, prompt: str, chat: pb.Chat) -> Structured:
        """Return a form of one call of these functions, or of more if there may be `several`."""
        lark = Lark(self.special)
        if self.tools == HARMONY_TOOLS:
            # One: a call ends the model's turn. The token that does, one of the end-of-sequence ones, is not written.
            calls = any_of([_harmony_call(lark, function) for function in functions])
        else:
            calls = f"{GAP} {CALLS[self.tools](lark, list(functions), several)}"
        return Structured("grammar", lark.text(f"{self._before(lark, prompt, chat)} {calls}"))

    def form(self, structured: Structured, prompt: str, chat: pb.Chat) -> Structured:
        """Return `structured` with the reasoning that may stand before it; itself if none may."""
        lark = Lark(self.special)
        before = self._before(lark, prompt, chat)
        if self.reasoning == HARMONY_REASONING and MESSAGE not in started(prompt):
            before += " " + lark.literal(f"{CHANNEL}final{MESSAGE}")
        form = _form(lark, structured) if before.strip() else ""
        return Structured("grammar", lark.text(f"{before} {form}")) if form else structured

    def _before(self, lark: Lark, prompt: str, chat: pb.Chat) -> str:
        """Return what may or must stand before: "" where no reasoning does."""
        if self.reasoning == HARMONY_REASONING or self.tools == HARMONY_TOOLS:
            return _harmony_before(lark, prompt)
        tags = REASONING.get(self.reasoning)
        start = tags.start(prompt, chat) if tags else Start.BEHIND
        if tags is None or start is Start.BEHIND:
            return ""
        thoughts = lark.up_to(tags.closing)
        if start is Start.WITHIN or tags.implicit:
            return thoughts
        return f"({lark.literal(tags.opening)} {thoughts})?"


def _harmony_before(lark: Lark, prompt: str) -> str:
    analysis = f"{CHANNEL}analysis{MESSAGE}"
    begun = started(prompt)
    if MESSAGE in begun and "analysis" not in begun.partition(MESSAGE)[0]:
        return ""
    opening = "" if MESSAGE in begun else lark.literal(analysis)
    following = lark.literal(f"{START}assistant")
    thoughts = f"{opening} {lark.up_to(END)} {following}"
    return thoughts if MESSAGE in begun else f"({thoughts})?"


def _harmony_call(lark: Lark, function: Function) -> str:
    header = f"{CHANNEL}commentary to=functions.{function['name']} {CONSTRAIN}json{MESSAGE}"
    return f"{lark.literal(header)} {lark.schema(schema_of(function))}"


def _form(lark: Lark, structured: Structured) -> str:
    """Return the expression of a form; "" for one that is none, whose error names it as it was given."""
    if structured.kind == "regex":
        return lark.rule(regex(structured.text))
    if structured.kind == "grammar":
        return lark.rule(f"%lark {{\n{structured.text}\n}}")
    try:
        schema = json.loads(structured.text)
    except (ValueError, RecursionError):
        return ""
    return f"{GAP} {lark.schema(schema)}" if isinstance(schema, dict | bool) else ""
