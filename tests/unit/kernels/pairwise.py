"""Parameters of a test combined in pairs: any two values of two parameters meet, in far fewer cases than all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import pytest

Choice = tuple[int, ...]


def pairwise(**parameters: Sequence[Any]) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize` over cases that hold every pair of values of two parameters."""
    values = list(parameters.values())
    rows = [[vs[i] for vs, i in zip(values, choice, strict=True)] for choice in chosen([len(vs) for vs in values])]
    return pytest.mark.parametrize(list(parameters), rows, ids=["-".join(map(str, row)) for row in rows])


def chosen(sizes: Sequence[int]) -> Iterator[Choice]:
    """Indices into parameters of these sizes: each time the first choice with the most pairs not yet seen."""
    choices = list(product(*map(range, sizes)))
    missing = {pair for choice in choices for pair in _pairs(choice)}
    while missing:
        best = max(choices, key=lambda choice: len(missing & _pairs(choice)))
        missing -= _pairs(best)
        yield best


def _pairs(choice: Choice) -> set[tuple[tuple[int, int], ...]]:
    return set(combinations(enumerate(choice), 2))
