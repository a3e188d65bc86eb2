"""JSON that goes to chat templates: tools, documents, variables. Errors name the field, as callers spell it."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from experts.checkpoint.json_checks import is_valid_unicode
from experts.host.shown import shown

MAX_TOOLS = 128
MAX_NAME_CHARACTERS = 256
# What stands for a name in every form of call that models write.
_NAME = re.compile(r"[\w.:/-]+")
# Of a tool, a document, a call's arguments: JSON Schemas have about ten.
MAX_DEPTH = 100
# Variables that the chat itself sets, and parameters of the function that servers call with the others.
RESERVED = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize")
)
_KINDS: Mapping[str, tuple[type, str]] = {
    "description": (str, "a text"),
    "parameters": (dict, "a JSON Schema, an object"),
    "strict": (bool, "true or false"),
}


class ChatFieldError(ValueError):
    """A field of the conversation has not the form that it must have; the message begins with the field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def tools_of(texts: Iterable[str], field: str = "chat.tools") -> list[dict[str, Any]]:
    """Return tools from the JSON of each, their keys in the caller's order.

    Raises:
        ChatFieldError: too many, or one has not the form of OpenAI's API.
    """
    tools = [object_of(text, f"{field}[{index}]") for index, text in enumerate(texts)]
    if len(tools) > MAX_TOOLS:
        raise ChatFieldError(field, f"at most {MAX_TOOLS} tools, got {len(tools)}: leave some out")
    names: set[str] = set()
    for index, tool in enumerate(tools):
        _check_tool(tool, f"{field}[{index}]")
        name = tool["function"]["name"]
        if name in names:
            problem = f"is the name of a tool before it, {name!r}: each needs its own, since a call names its tool"
            raise ChatFieldError(f"{field}[{index}].function.name", problem)
        names.add(name)
    return tools


def documents_of(texts: Iterable[str], field: str = "chat.documents") -> list[dict[str, Any]]:
    """Return documents from the JSON of each.

    Raises:
        ChatFieldError: one is no JSON object.
    """
    return [object_of(text, f"{field}[{index}]") for index, text in enumerate(texts)]


def template_kwargs_of(text: str, field: str = "chat.template_kwargs", reserved: Iterable[str] = ()) -> dict[str, Any]:
    """Return a template's variables from the JSON of an object; "" has none.

    Raises:
        ChatFieldError: it is no JSON object, or has a name of `RESERVED` or `reserved`.
    """
    variables = object_of(text, field) if text else {}
    taken = sorted(RESERVED.union(reserved) & variables.keys())
    if taken:
        raise ChatFieldError(field, f"{taken[0]} is no variable of the template that can be set; leave it out")
    return variables


def object_of(text: str, field: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ChatFieldError: `text` is something else, nests too deeply, or has half a surrogate pair or NaN.
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ChatFieldError(field, f"nests deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise ChatFieldError(field, f"must be a JSON object, got {shown(text)}: {error}") from None
    if not isinstance(value, dict):
        raise ChatFieldError(field, f"must be a JSON object, got {shown(text)}")
    _check_values(value, field)
    return value


def strings_mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Return JSON with `change` of each of its strings, those that are keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): strings_mapped(item, change) for key, item in value.items()}
    return [strings_mapped(item, change) for item in value] if isinstance(value, list) else value


def _check_tool(tool: dict[str, Any], field: str) -> None:
    if tool.get("type") != "function":
        raise ChatFieldError(f"{field}.type", f'must be "function", got {shown(tool.get("type"))}')
    function = tool.get("function")
    if not isinstance(function, dict):
        raise ChatFieldError(f"{field}.function", f"must be an object with a name, got {shown(function)}")
    name = function.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARACTERS:
        problem = f"must be a text of 1 to {MAX_NAME_CHARACTERS} characters, got {shown(name)}"
        raise ChatFieldError(f"{field}.function.name", problem)
    if not _NAME.fullmatch(name):
        problem = f"may have letters, digits, _, -, ., : and /, got {shown(name)}"
        raise ChatFieldError(f"{field}.function.name", problem)
    for key, (kind, wanted) in _KINDS.items():
        value = function.get(key)
        if value is not None and not isinstance(value, kind):
            raise ChatFieldError(f"{field}.function.{key}", f"must be {wanted}, got {shown(value)}")


def _check_values(value: dict[str, Any], field: str) -> None:
    """Check all values, level by level: a recursion of ours would overflow where the parser's did not."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        strings = [item for item in level if isinstance(item, str)]
        strings += [key for item in level if isinstance(item, dict) for key in item]
        if not is_valid_unicode("".join(strings)):
            raise ChatFieldError(field, "has half a surrogate pair, which is no text")
        lists = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level = [item for items in lists for item in items]
        if not level:
            return
    raise ChatFieldError(field, f"nests deeper than {MAX_DEPTH} levels")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
