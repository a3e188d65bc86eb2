"""Expressions of tool calls, in the form of each model and with arguments that their schemas accept."""

from collections.abc import Callable
from typing import Any

from router_service.front.parsing.grammars.lark import Lark, any_of, list_of
from router_service.front.parsing.grammars.parameters import python_arguments, xml_parameters
from router_service.front.parsing.tools.marked import DEEPSEEK, KIMI
from router_service.front.parsing.tools.mistral import ARGUMENTS, OPENING

Function = dict[str, Any]
# A rule of one of the calls, or more of them if the last is true.
CallsOf = Callable[[Lark, list[Function], bool], str]


def schema_of(function: Function) -> dict[str, Any]:
    """Return the schema of a function's arguments, an object in any case; none are taken where there is none."""
    given = function.get("parameters")
    if not isinstance(given, dict) or not given:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return {"type": "object", **given}


def around(before: str, after: str) -> Callable[[Lark, Function], str]:
    """Return what makes the expression of a call with the arguments' JSON between two texts, %s being the name."""

    def call(lark: Lark, function: Function) -> str:
        opening = lark.literal(before.replace("%s", function["name"]))
        return f"{opening} {lark.schema(schema_of(function))} {lark.literal(after)}".strip()

    return call


def joined(opening: str, call: Callable[[Lark, Function], str], separator: str, closing: str) -> CallsOf:
    """Return what makes the expression of calls between `opening` and `closing`."""

    def calls(lark: Lark, functions: list[Function], several: bool) -> str:
        one = lark.rule(any_of([call(lark, function) for function in functions]))
        # With nothing between, an empty text would be a token that never comes.
        items = list_of(one, lark.literal(separator), several)
        return " ".join(filter(None, (lark.literal(opening), items, lark.literal(closing))))

    return calls


def kimi_call(lark: Lark, function: Function) -> str:
    """Return a call of Kimi K2, whose numbers go on over the conversation."""
    opening = lark.literal(f"{KIMI.call}functions.{function['name']}:")
    arguments = lark.schema(schema_of(function))
    return f"{opening} /[0-9]{{1,4}}/ {lark.literal(KIMI.separator)} {arguments} {lark.literal(KIMI.end_call)}"


def coder_call(lark: Lark, function: Function) -> str:
    """Return a call in Qwen3-Coder's XML."""
    parameters = xml_parameters(lark, schema_of(function))
    opening = lark.literal(f"<tool_call>\n<function={function['name']}>\n")
    closing = lark.literal("</function>\n</tool_call>")
    return f"{opening} {parameters} {closing}"


def python_call(lark: Lark, function: Function) -> str:
    """Return a call in Python's form, with values of JSON."""
    return f'{lark.literal(function["name"] + "(")} {python_arguments(lark, schema_of(function))} ")"'


def mistral_calls(lark: Lark, functions: list[Function], several: bool) -> str:
    """Return Mistral's calls: in the newer form where the tokenizer has its marker."""
    if lark.has(ARGUMENTS):
        return joined("", around(f"{OPENING}%s{ARGUMENTS}", ""), "", "")(lark, functions, several)
    calls = joined("[", around('{"name": "%s", "arguments": ', "}"), ", ", "]")
    # Some tokenizers' templates have a space there.
    return f'{lark.literal(OPENING)} " "? {calls(lark, functions, several)}'


HERMES = around('<tool_call>\n{"name": "%s", "arguments": ', "}\n</tool_call>")
DEEPSEEK_V3 = around(f"{DEEPSEEK.call}function{DEEPSEEK.separator}%s\n```json\n", f"\n```{DEEPSEEK.end_call}")
DEEPSEEK_V31 = around(f"{DEEPSEEK.call}%s{DEEPSEEK.separator}", DEEPSEEK.end_call)
CALLS: dict[str, CallsOf] = {
    "hermes": joined("", HERMES, "\n", ""),
    "qwen3_coder": joined("", coder_call, "\n", ""),
    "deepseek_v3": joined(DEEPSEEK.opening, DEEPSEEK_V3, "\n", DEEPSEEK.closing),
    "deepseek_v31": joined(DEEPSEEK.opening, DEEPSEEK_V31, "", DEEPSEEK.closing),
    "kimi_k2": joined(KIMI.opening, kimi_call, "", KIMI.closing),
    "llama3_json": joined("", around('{"name": "%s", "parameters": ', "}"), "; ", ""),
    "llama4_pythonic": joined("[", python_call, ", ", "]"),
    "mistral": mistral_calls,
}
