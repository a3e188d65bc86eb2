"""From how many rows on the second way is taken, by a clock that only the products move."""

from __future__ import annotations

import math

import pytest
import torch

from kernels.cpu.calibration import BUDGET_S, ROUNDS, ROWS, measured_rows


class Bench:
    """Two ways to multiply that take as long as they are told to."""

    def __init__(self, first, second):
        self.now = 0.0
        self.rows: list[int] = []
        self._costs = first, second

    def measure(self) -> float:
        return measured_rows(torch.bfloat16, *(self._way(cost) for cost in self._costs), clock=lambda: self.now)

    def _way(self, cost):
        def linear(x, w):
            assert x.dtype == w.dtype == torch.bfloat16
            assert x.shape[1] == w.shape[1]
            self.rows.append(len(x))
            self.now += cost(len(x))
            return x

        return linear


@pytest.mark.parametrize(("fixed", "expected"), [(0.1, 2), (2.5, 3), (6.5, 8), (57.0, 64), (63.0, math.inf)])
def test_the_first_number_of_rows_that_gains_a_tenth(fixed, expected):
    bench = Bench(lambda rows: rows * 1e-6, lambda _rows: fixed * 1e-6)
    assert bench.measure() == expected
    assert max(bench.rows) == min(expected, ROWS[-1])


def test_one_slow_product_of_many_does_not_decide():
    slow = iter([0.0, 0.1])  # of the first way: the one to warm up, and the first that counts
    bench = Bench(lambda rows: rows * 1e-6 + next(slow, 0.0), lambda _rows: 6.5e-6)
    assert bench.measure() == 8


def test_a_starved_machine_is_not_measured_on():
    bench = Bench(lambda _rows: BUDGET_S, lambda _rows: BUDGET_S)
    assert bench.measure() == ROWS[-1]
    assert len(bench.rows) == 2 * (ROUNDS + 1)
