"""Decides whether a step runs as one batch, or as two that take turns: one's attention beside the other's experts.

Two cost more: each expert computes twice with fewer rows, and each layer makes two trips. They win where the router
would wait long, for the link or for experts on other cores. Plain data: no clock; times are handed in.
"""

from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from statistics import median

from router_service.config import Overlap
from router_service.engine.scheduling.sequence import ScheduledSequence
from router_service.engine.scheduling.step_cost import StepShape

# Below so many rows in each half, a trip's fixed costs outweigh what it hides.
MIN_ROWS = 4
# The other way is tried in one of so many steps, at first more often.
TRY_EVERY = 64
TRY_FIRST_EVERY = 8
# A comparison rests on the median of so many trials, and each trial on the steps since the last one.
TRIALS = 5
# Two batches are taken when they need less than so much of one batch's time, and left when they need more of it.
TAKE_BELOW = 0.95
LEAVE_ABOVE = 1.0

Halves = list[Sequence[ScheduledSequence]]


def halves(scheduled: Sequence[ScheduledSequence]) -> Halves:
    """Split at the sequence where both halves have most nearly as many rows; one part if either has too few."""
    ends = list(accumulate(len(item.token_ids) for item in scheduled))
    cut = min(range(len(ends)), key=lambda number: abs(2 * ends[number] - ends[-1]))
    if min(ends[cut], ends[-1] - ends[cut]) < MIN_ROWS:
        return [scheduled]
    return [scheduled[: cut + 1], scheduled[cut + 1 :]]


class Comparison:
    """Which way is faster for steps of one size and kind. Each trial is compared with the steps shortly before it."""

    def __init__(self) -> None:
        self.taken = False
        self._usual: deque[float] = deque(maxlen=TRY_FIRST_EVERY)
        self._ratios: deque[float] = deque(maxlen=TRIALS)
        self._steps = 0

    def choose(self) -> bool:
        """Whether the next step is to run as two batches."""
        self._steps += 1
        every = TRY_EVERY if len(self._ratios) == TRIALS else TRY_FIRST_EVERY
        return self.taken != (self._steps % every == 0 and bool(self._usual))

    def observe(self, overlapped: bool, seconds: float) -> None:
        """Take a step's time per row into account."""
        if overlapped == self.taken:
            self._usual.append(seconds)
        elif self._usual:
            usual = median(self._usual)
            self._ratios.append(seconds / usual if overlapped else usual / seconds)
            self._decide()

    def _decide(self) -> None:
        limit = LEAVE_ABOVE if self.taken else TAKE_BELOW
        wins = len(self._ratios) == TRIALS and median(self._ratios) < limit
        if wins != self.taken:
            self.taken = wins
            self._usual.clear()


class OverlapPolicy:
    """Splits steps as `router.overlap` says; `auto` learns by size and kind of step which way is faster."""

    def __init__(self, mode: Overlap) -> None:
        self._mode = mode
        self._comparisons: dict[tuple[bool, bool, int], Comparison] = {}
        self._chosen: tuple[Comparison, bool, int] | None = None

    def split(self, scheduled: Sequence[ScheduledSequence], shape: StepShape) -> Halves:
        """Return the step's sequences in one part or two, in order; after the step `observe` tells how it went."""
        self._chosen, parts = None, halves(scheduled) if self._mode != "off" else [scheduled]
        if self._mode != "auto" or len(parts) == 1:
            return parts
        comparison, rows = self._comparison(shape), shape.decode_rows + shape.prefill_tokens
        self._chosen = comparison, comparison.choose(), rows
        return parts if self._chosen[1] else [scheduled]

    def observe(self, seconds: float) -> None:
        """Take the time of the step that was split last into account."""
        if self._chosen is not None:
            comparison, overlapped, rows = self._chosen
            comparison.observe(overlapped, seconds / rows)
            self._chosen = None

    def _comparison(self, shape: StepShape) -> Comparison:
        rows = shape.decode_rows + shape.prefill_tokens
        kind = (shape.prefill_tokens > 0, shape.decode_rows > 0, rows.bit_length())
        return self._comparisons.setdefault(kind, Comparison())
