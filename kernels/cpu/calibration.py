"""At how many rows the second of two ways to multiply overtakes the first: a measurement of well under a second.

Legend: M rows, I inputs, O outputs.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

Linear = Callable[[Tensor, Tensor], Tensor]
Clock = Callable[[], float]

# About an expert's matrix; larger ones overtake at the same number of rows or earlier.
SHAPE_OI = (768, 1024)
# If the second way does not win at 64 rows, the first has no slow loop to avoid.
ROWS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
ROUNDS = 5
# Above the noise of such short measurements.
GAIN = 1.1
# Paid by each process at its start.
BUDGET_S = 0.3


def measured_rows(dtype: torch.dtype, first: Linear, second: Linear, clock: Clock = time.perf_counter) -> float:
    """The least of `ROWS` at which `second` is faster by `GAIN`; infinity where it is so at none.

    Starts no further row count after `BUDGET_S` seconds of `clock`, as on a starved machine: the answer is then the
    most rows, since what is left to decide is about few.
    """
    rng = torch.Generator().manual_seed(0)  # of its own: a measurement must not advance the global generator
    w_OI = torch.randn(SHAPE_OI, generator=rng).to(dtype)
    begun = clock()
    for rows in ROWS:
        if clock() - begun > BUDGET_S:
            return ROWS[-1]
        x_MI = torch.randn(rows, SHAPE_OI[1], generator=rng).to(dtype)
        if _faster(second, first, x_MI, w_OI, clock):
            return rows
    return math.inf


def _faster(one: Linear, other: Linear, x_MI: Tensor, w_OI: Tensor, clock: Clock) -> bool:
    """Whether the median of `one` is below that of `other`; they take turns, so that another process disturbs both."""
    seconds: dict[Linear, list[float]] = {one: [], other: []}
    for linear in seconds:
        linear(x_MI, w_OI)  # to warm up
    for _ in range(ROUNDS):
        for linear, times in seconds.items():
            times.append(_timed(linear, x_MI, w_OI, clock))
    return GAIN * statistics.median(seconds[one]) < statistics.median(seconds[other])


def _timed(linear: Linear, x_MI: Tensor, w_OI: Tensor, clock: Clock) -> float:
    begun = clock()
    linear(x_MI, w_OI)
    return clock() - begun
