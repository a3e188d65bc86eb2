"""Arguments one by one, for forms of call that are not one JSON object."""

from typing import Any

from router_service.front.parsing.call_object import is_name
from router_service.front.parsing.grammars.lark import Lark, any_of
from router_service.front.parsing.tools.qwen_xml import END_PARAMETER, PARAMETER, types_of

DEFINITIONS = ("$defs", "definitions")
EMPTY = '""'


def xml_parameters(lark: Lark, schema: dict[str, Any]) -> str:
    """Return the parameters of a call in Qwen3-Coder's XML, in the schema's order."""
    made = []
    for name, given, required in parameters_of(schema):
        opening = lark.literal(f"{PARAMETER}{name}>\n")
        made.append(lark.rule(f"{opening} {_xml_value(lark, given)}") + "?" * (not required))
    return " ".join(made)


def _xml_value(lark: Lark, schema: Any) -> str:
    """Return a value and the tag behind it. Texts are written as they are, and bound by their choices only."""
    end = f"\n{END_PARAMETER}\n"
    if not isinstance(schema, dict) or types_of(schema) != {"string"}:
        return f"{lark.schema(schema)} {lark.literal(end)}"
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(choices, list) and choices and all(isinstance(one, str) for one in choices):
        return f"{any_of([lark.literal(one) or EMPTY for one in choices])} {lark.literal(end)}"
    return lark.up_to(end)


def python_arguments(lark: Lark, schema: dict[str, Any]) -> str:
    """Return the arguments of a call in Python's form, in the schema's order."""
    # From the last on: what may follow where an argument stands before it, and where none does.
    behind, first = EMPTY, EMPTY
    for name, given, required in reversed(parameters_of(schema)):
        argument = lark.rule(f"{lark.literal(f'{name}=')} {lark.schema(given)}")
        first = lark.rule(f"{argument} {behind}" if required else f"{argument} {behind} | {first}")
        behind = lark.rule(f'", " {argument} {behind}' if required else f'(", " {argument})? {behind}')
    return first


def parameters_of(schema: dict[str, Any]) -> list[tuple[str, Any, bool]]:
    """Return name, schema and whether it is required of each parameter whose name the forms can have."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return []
    needed = required if isinstance(required, list) else []
    shared = {key: schema[key] for key in DEFINITIONS if key in schema}
    made = ((name, {**given, **shared} if isinstance(given, dict) else given) for name, given in properties.items())
    return [(name, given, name in needed) for name, given in made if is_name(name)]
