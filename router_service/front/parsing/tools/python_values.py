"""Values as Python writes them, as JSON."""

import ast
import json
import warnings
from typing import Any

# Of lists and dicts within each other, as for JSON.
MAX_DEPTH = 64
CONSTANTS = {"true": True, "false": False, "null": None}


def json_of(text: str) -> str:
    """Return a value of JSON, or one of Python's literals, as JSON; "" if it is neither.

    JSON comes first: both have strings with backslashes, and do not mean the same by all of them.
    """
    stripped = text.strip()
    try:
        json.loads(stripped, parse_constant=_refuse)
        return stripped
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            # Of escapes that Python does not know, which models write.
            warnings.simplefilter("ignore")
            value = _value(ast.parse(stripped, mode="eval").body, 0)
        made = json.dumps(value, ensure_ascii=False, allow_nan=False)
        made.encode()
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return ""
    return made


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _value(node: ast.expr, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None):
            return node.value
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, depth + 1) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value, depth + 1) for key, value in zip(keys, values, strict=True)}
    raise ValueError("no literal")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("no text as a key")
