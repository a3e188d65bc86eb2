"""Mutations of values within values, as JSON and msgpack have them: what parses and is wrong all the same."""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgspec

from tests.fuzz.mutate import EDGES
from tests.fuzz.target import Mutation

STRANGE: tuple[Any, ...] = (
    *EDGES, -1, -(2**31), -(2**63), 0.0, -0.5, 1e-50, 1e308, float("nan"), float("inf"), 10**9, True, False, None, "",
    "0", "x" * 1000, "\x00", "../..", [], {}, [None], [[]], {"": 0}, [0] * 100,
)  # fmt: skip
Place = tuple[Any, Any]


def mutation_of(read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Mutation:
    """A mutation that reads an input, changes one value of it, and writes it; what cannot be read stays as it is."""

    def mutate(random: Random, data: bytes) -> bytes:
        try:
            root = [read(data)]
        except Exception:
            return data
        parent, key = random.choice(list(_places(root)))
        _change(random, parent, key)
        try:
            return write(root[0])
        except Exception:  # a number that the format does not have
            return data

    return mutate


def _change(random: Random, parent: Any, key: Any) -> None:
    kind = random.randrange(4)
    if kind == 0 and isinstance(parent, dict):
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(random.randint(0, len(parent)), parent[key])
    elif kind == 2 and isinstance(parent[key], int | float):
        parent[key] = -parent[key] if random.random() < 0.3 else parent[key] * random.choice((2, 1000)) + 1
    else:
        parent[key] = random.choice(STRANGE)


def _places(value: Any) -> Iterator[Place]:
    """Each container and key at which a value stands."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


JSON = mutation_of(json.loads, lambda value: json.dumps(value).encode())
MSGPACK = mutation_of(msgspec.msgpack.decode, msgspec.msgpack.encode)
