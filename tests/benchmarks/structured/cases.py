"""What the libraries are asked for: usual schemas with an answer each, and nasty ones that are only compiled."""

import json
from typing import Any

STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


ADDRESS = _object(street=STRING, city=STRING, zip={"type": "string", "pattern": "^[0-9]{5}$"})
PERSON = _object(
    name=STRING,
    age={"type": "integer", "minimum": 0, "maximum": 150},
    address=ADDRESS,
    tags={"type": "array", "items": STRING, "maxItems": 8},
    kind={"enum": ["employee", "customer", "supplier"]},
)
ANSWER = {
    "name": "Grace Brewster Hopper",
    "age": 85,
    "address": {"street": "1 Navy Yard, building 200", "city": "Washington", "zip": "20374"},
    "tags": ["compilers", "a bug in a relay", "COBOL"],
    "kind": "employee",
}
CALL = _object(
    name={"enum": [f"function_{number}" for number in range(30)]},
    arguments=_object(
        query=STRING, limit=INTEGER, filters={"type": "array", "items": _object(key=STRING, value=STRING)}
    ),
)
CALLED = {
    "name": "function_17",
    "arguments": {
        "query": "all relays that had a moth in them",
        "limit": 20,
        "filters": [{"key": "year", "value": "1947"}],
    },
}
USUAL: dict[str, tuple[dict[str, Any], Any]] = {
    "a person": (PERSON, ANSWER),
    "a call of one of 30 tools": (CALL, CALLED),
    "any object": ({"type": "object"}, ANSWER),
    "an enum of 1,000": (_object(item={"enum": [f"item {n:04}" for n in range(1000)]}), {"item": "item 0731"}),
}


def _nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = STRING
    for _ in range(levels):
        value = _object(inner=value, other=STRING)
    return value


NASTY: dict[str, dict[str, Any]] = {
    "30 levels of objects": _nested(30),
    "3,000 optional properties": {"type": "object", "properties": {f"property {n}": INTEGER for n in range(3000)}},
    "an enum of 12,000": {"enum": [f"item {n} of many" for n in range(12000)]},
    "maxLength 1,000,000": {"type": "string", "maxLength": 1_000_000},
    "minItems 100,000": {"type": "array", "items": INTEGER, "minItems": 100_000},
    "pattern (.*a.{20}b.*)": {"type": "string", "pattern": "^.*a.{20}b.*$"},
    "pattern ((a{50}){50}){50}": {"type": "string", "pattern": "^((a{50}){50}){50}$"},
    "a tree of itself": {**_object(left={"anyOf": [{"$ref": "#"}, {"type": "null"}]}, right={"$ref": "#"})},
}


def compact(value: Any) -> str:
    """JSON as models write it mostly."""
    return json.dumps(value, separators=(", ", ": "))
