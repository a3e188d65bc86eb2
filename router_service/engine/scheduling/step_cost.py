"""A running estimate of how long a step takes, from what it computes.

A step costs something by itself, for each decoding row and its context, and for each token of a prompt and its context:
a linear model, fitted by least squares to the latest steps, without negative costs. Errors count relative to a step's
time, so that short steps matter as much as long ones. Plain data: no clock; times are handed in.
"""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

# Steps of each kind that the estimate rests on, and how much less each counts than the one after it: a change of load
# is followed within some twenty steps.
REMEMBERED_STEPS = 64
FORGETTING = 0.95
# A step that took so many times what was predicted is left out.
HICCUP = 2.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step computes.

    `decode_rows` sequences that decode, with `decode_context` tokens of context together; `prefill_tokens` of prompts,
    which attend to `prefill_pairs` earlier tokens in sum.
    """

    decode_rows: int = 0
    decode_context: int = 0
    prefill_tokens: int = 0
    prefill_pairs: int = 0

    def with_chunk(self, tokens: int, start: int) -> "StepShape":
        """The step with a chunk of `tokens` tokens of a prompt, the first at position `start`."""
        return replace(
            self,
            prefill_tokens=self.prefill_tokens + tokens,
            prefill_pairs=self.prefill_pairs + tokens * start + tokens * (tokens + 1) // 2,
        )

    @property
    def features(self) -> tuple[float, ...]:
        """The amounts of the linear model; the first is the step itself."""
        return (1.0, self.decode_rows, self.decode_context, self.prefill_tokens, self.prefill_pairs)


class StepCost:
    """The estimate. `observe` each step, then `seconds` predicts one."""

    def __init__(self) -> None:
        # Apart: a long prompt must not push out the steps without one, by which its chunks are judged.
        self._without: deque[tuple[StepShape, float]] = deque(maxlen=REMEMBERED_STEPS)
        self._with: deque[tuple[StepShape, float]] = deque(maxlen=REMEMBERED_STEPS)
        self._costs: Floats | None = None

    def observe(self, shape: StepShape, seconds: float) -> None:
        """Take a step's time into account."""
        steps = self._with if shape.prefill_tokens else self._without
        steps.append((shape, seconds))
        self._costs = None

    @property
    def largest_chunk(self) -> int:
        """The most tokens of prompts in one of the steps that the estimate rests on."""
        return max((shape.prefill_tokens for shape, _ in self._with), default=0)

    def seconds(self, shape: StepShape) -> float:
        """Predict a step's time; 0 before anything was observed."""
        if self._costs is None:
            self._costs = self._fit()
        return float(self._costs @ np.array(shape.features))

    def _fit(self) -> Floats:
        steps = [*self._without, *self._with]
        if not steps:
            return np.zeros(len(StepShape().features))
        amounts_NF = np.array([shape.features for shape, _ in steps])
        seconds_N = np.array([max(seconds, 1e-9) for _, seconds in steps])
        weights_N = np.concatenate([_weights(len(kind)) for kind in (self._without, self._with)])
        costs_F = _nonnegative(amounts_NF / seconds_N[:, None], weights_N)
        # The first steps of a process, or those that others have disturbed, say nothing of the next one.
        usual_N = (amounts_NF @ costs_F) * HICCUP > seconds_N
        if usual_N.all() or usual_N.sum() < len(steps) / 2:
            return costs_F
        return _nonnegative(amounts_NF[usual_N] / seconds_N[usual_N, None], weights_N[usual_N])


def _weights(steps: int) -> Floats:
    """What the steps count, the oldest first."""
    return np.power(FORGETTING, np.arange(steps - 1, -1, -1), dtype=np.float64)


def _nonnegative(relative_NF: Floats, weights_N: Floats) -> Floats:
    """Costs, none negative, that bring each step's predicted time relative to its own as near to 1 as possible.

    By least squares; amounts whose cost comes out negative are left out, the most negative first.
    """
    costs_F = np.zeros(relative_NF.shape[1])
    used = np.flatnonzero(relative_NF.any(axis=0))
    while len(used):
        scale_U = np.abs(relative_NF[:, used]).max(axis=0)
        weighted_NU = weights_N[:, None] * relative_NF[:, used] / scale_U
        fitted_U = np.asarray(np.linalg.lstsq(weighted_NU, weights_N, rcond=1e-6)[0] / scale_U, dtype=np.float64)
        if (fitted_U >= 0).all():
            costs_F[used] = fitted_U
            break
        used = np.delete(used, fitted_U.argmin())
    return costs_F
