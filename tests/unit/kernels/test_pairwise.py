"""No value and no pair of values is lost."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.unit.kernels.pairwise import chosen


@pytest.mark.parametrize("sizes", [(2, 3), (14, 3, 6), (4, 3, 2, 6), (1, 5, 2)])
def test_every_pair_appears_and_the_cases_are_few(sizes):
    cases = list(chosen(sizes))
    for one, other in combinations(range(len(sizes)), 2):
        assert {(case[one], case[other]) for case in cases} == set(product(range(sizes[one]), range(sizes[other])))
    largest, second = sorted(sizes)[:-3:-1]
    assert largest * second <= len(cases) <= 1.3 * largest * second
