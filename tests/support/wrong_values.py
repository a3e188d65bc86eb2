"""JSON objects with one value replaced by another, of every type and of sizes that nothing can have."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from experts.host.shown import shown

VALUES: list[Any] = [
    None, "a string", "4096", "half \ud800\n", "x" * 5000, [], [1], ["a", [None]], [-1], [10**30], list(range(5000)),
    {}, {"a": 1}, True, False, 10**9, 10**30, 10**400, -1, -(10**30), 0, 1, 1.5, 1e308, 5e-324, math.nan, math.inf,
    -math.inf,
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`config` with `value` at the path, whose last name is `key`."""

    key: str
    value: Any
    config: dict[str, Any]


def spoiled(config: dict[str, Any]) -> Iterator[Case]:
    """Every value of an object, those of its nested objects and lists too, replaced by each of `VALUES`."""
    for key, item in config.items():
        for changed_key, value, changed in _spoiled(item, key):
            yield Case(changed_key, value, config | {key: changed})


def _spoiled(item: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    for value in VALUES:
        yield key, value, value
    if isinstance(item, dict):
        for case in spoiled(item):
            yield case.key, case.value, case.config
    if isinstance(item, list) and item:
        for changed_key, value, changed in _spoiled(item[0], key):
            yield changed_key, value, [changed, *item[1:]]


def check_refusal(error: ValueError, case: Case, file: str) -> None:
    """The error is one short line that names the file and the key."""
    message, said = str(error), f"{case.key} {shown(case.value)}: {str(error)[:500]}"
    assert message.startswith(f"{file}: "), said
    assert case.key in message, said
    assert message.isprintable(), said
    assert len(message) < 500 + len(file), said
