"""Random JSON schemas and regular expressions whose answers are short, of the keywords that structured output has."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
NAMES = ("name", "id", "größe", "a b", 'quo"te', "tags", "x-y", "items", "n0", "日本")
TEXTS = ("red", "green", "a\nb", 'say "hi"', "ü", "", "back\\slash", "<|im_end|>", "🙂")
PATTERNS = (
    r"^[a-z]{1,6}$",
    r"^\d{3}-\d{4}$",
    r"^(foo|bar){1,3}$",
    r"^[A-Z][a-z]{0,5}( [A-Z][a-z]{0,5})?$",
    r"^#[0-9a-fA-F]{6}$",
)
FORMATS = ("date", "time", "date-time", "ipv4", "uuid")
DEPTH = 3


def random_schema(seed: int) -> Schema:
    """A schema; the same for the same seed."""
    chance = random.Random(seed)
    schema = _object(chance, 1) if chance.random() < 0.6 else _any(chance, 0)
    if chance.random() < 0.2:
        return {
            "type": "object",
            "properties": {"one": {"$ref": "#/$defs/part"}, "two": {"$ref": "#/$defs/part"}},
            "required": ["one"],
            "additionalProperties": False,
            "$defs": {"part": schema},
        }
    return schema


def random_regex(seed: int) -> str:
    """A regular expression that Python and Rust read alike."""
    chance = random.Random(seed)
    return "".join(_piece(chance, 2) for _ in range(chance.randint(1, 5)))


def _any(chance: random.Random, depth: int) -> Schema:
    kinds: list[Callable[[random.Random, int], Schema]] = [_string, _integer, _number, _plain, _choice]
    if depth < DEPTH:
        kinds += [_object, _array, _union]
    return chance.choice(kinds)(chance, depth + 1)


def _object(chance: random.Random, depth: int) -> Schema:
    names = chance.sample(NAMES, chance.randint(0, 4))
    return {
        "type": "object",
        "properties": {name: _any(chance, depth) for name in names},
        "required": [name for name in names if chance.random() < 0.7],
        "additionalProperties": False,
    }


def _array(chance: random.Random, depth: int) -> Schema:
    least = chance.randint(0, 2)
    if chance.random() < 0.2:
        return {"type": "array", "prefixItems": [_any(chance, depth) for _ in range(2)], "items": False}
    return {"type": "array", "items": _any(chance, depth), "minItems": least, "maxItems": least + chance.randint(0, 2)}


def _union(chance: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(chance, depth) for _ in range(chance.randint(1, 3))]}


def _string(chance: random.Random, _: int) -> Schema:
    kind = chance.randint(0, 2)
    if kind == 0:
        return {"type": "string", "pattern": chance.choice(PATTERNS)}
    if kind == 1:
        return {"type": "string", "format": chance.choice(FORMATS)}
    least = chance.randint(0, 4)
    return {"type": "string", "minLength": least, "maxLength": least + chance.randint(0, 8)}


def _integer(chance: random.Random, _: int) -> Schema:
    low = chance.randint(-1000, 1000)
    bounds = {"minimum": low, "maximum": low + chance.randint(0, 5000)}
    chosen = {key: value for key, value in bounds.items() if chance.random() < 0.8}
    return {"type": "integer", **chosen}


def _number(chance: random.Random, _: int) -> Schema:
    low = round(chance.uniform(-10, 10), 2)
    return {"type": "number", "minimum": low, "maximum": round(low + chance.uniform(0.5, 20), 2)}


def _plain(chance: random.Random, _: int) -> Schema:
    return chance.choice([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}])


def _choice(chance: random.Random, _: int) -> Schema:
    values = [*chance.sample(TEXTS, 3), 7, 2.5, None, True, {"k": [1]}]
    if chance.random() < 0.3:
        return {"const": chance.choice(values)}
    return {"enum": chance.sample(values, chance.randint(1, 4))}


def _piece(chance: random.Random, depth: int) -> str:
    atoms = ["[a-f]", r"\d", "x", "[^a-z0-9\\s]", r"\.", "é", "(?:ab|ba)", " ", "[A-Z]", "日"]
    atom = chance.choice(atoms)
    if depth and chance.random() < 0.4:
        atom = f"(?:{'|'.join(_piece(chance, depth - 1) for _ in range(chance.randint(1, 3)))})"
    return atom + chance.choice(["", "", "?", "{1,3}", "{2}", "{0,4}"])
