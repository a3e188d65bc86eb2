"""What a layer's call costs each shard, learnt from the calls that were answered. N calls, S shards.

Least squares of the relative error, as decoding's small calls matter as much as a prompt's large ones, with a pull
towards the costs that were assumed, scaled to what is seen: where all calls are alike, as in decoding alone, they do
not say what an expert costs and what a pair does. Only sums are kept, and older calls fade.
"""

import threading

import numpy as np
from numpy.typing import NDArray

from experts.costs import Floats, ShardCosts, equal_costs
from experts.timing.trips import TripCalls

# A shard's costs are taken to be the others' until so many of its calls are known.
LEAST_CALLS = 32
# About so many calls are remembered.
MEMORY_CALLS = 4096
# Costs are found anew after so many calls of each shard.
CALLS_BETWEEN = 1024
# The pull counts as much as the whole error of so many calls.
PULL_CALLS = 0.5
# A call that took so much longer or shorter than expected counts as if it had taken so much: a thread may be stopped.
MOST_SURPRISE = 3.0
# A cost is never further than this from the assumed ones, so never zero.
BOUND = 50.0
SWEEPS = 20
NAMES = ("call_us_S", "expert_us_S", "pair_us_S")


class CostFit:
    """Learns the costs of `shards`. `costs` are those learnt so far; any thread may read them.

    The same calls in the same order give the same costs.
    """

    def __init__(self, shards: int) -> None:
        self.costs = equal_costs(shards)
        self._assumed_S3 = _table(self.costs)
        self._squares_S33, self._sums_S3 = np.zeros((shards, 3, 3)), np.zeros((shards, 3))
        self._seen_S = np.zeros(shards)
        self._since, self._next = 0, LEAST_CALLS
        self._lock = threading.Lock()

    def add(self, calls: TripCalls) -> bool:
        """Learn from calls; returns whether `costs` have changed.

        A computation that was shared with other routers' calls says nothing of this call alone, and is left out.
        """
        with self._lock:
            took_N = calls.own_compute_N / 1e3
            alone = (calls.shared_N == 0) & (took_N > 0) & (calls.experts_N > 0)
            shards_N, took_N = calls.shards_N[alone], took_N[alone]
            if not len(shards_N):
                return False
            sizes = (np.ones(len(shards_N)), calls.experts_N[alone], calls.assignments_N[alone])
            self._learn(shards_N, np.stack(sizes, axis=1).astype(np.float64), took_N)
            return self._solved(len(shards_N))

    def _learn(self, shards_N: NDArray[np.int64], x_N3: Floats, took_N: Floats) -> None:
        expected_N = (x_N3 * _table(self.costs)[shards_N]).sum(axis=1)
        known_N = self._seen_S[shards_N] >= LEAST_CALLS
        bounds = (expected_N / MOST_SURPRISE, expected_N * MOST_SURPRISE)
        x_N3 = x_N3 / np.where(known_N, np.clip(took_N, *bounds), took_N)[:, None]
        shards = len(self._seen_S)
        new_S = np.bincount(shards_N, minlength=shards)
        fade_S = (1 - 1 / MEMORY_CALLS) ** new_S
        self._seen_S = self._seen_S * fade_S + new_S
        for one in range(3):
            self._sums_S3[:, one] = self._sums_S3[:, one] * fade_S + np.bincount(shards_N, x_N3[:, one], shards)
            for other in range(3):
                new = np.bincount(shards_N, x_N3[:, one] * x_N3[:, other], shards)
                self._squares_S33[:, one, other] = self._squares_S33[:, one, other] * fade_S + new

    def _solved(self, calls: int) -> bool:
        """Find the costs anew, soon at first and then from time to time."""
        self._since += calls
        if self._since < self._next or not (known_S := self._seen_S >= LEAST_CALLS).any():
            return False
        self._since, self._next = 0, min(2 * self._next, CALLS_BETWEEN * len(self._seen_S))
        found_S3 = np.where(known_S[:, None], self._best(), 0.0)
        found_S3[~known_S] = np.median(found_S3[known_S], axis=0)
        self.costs = ShardCosts(*found_S3.T.copy())
        return True

    def _best(self) -> Floats:
        """[S, 3]: in units of what was assumed, scaled to what each shard takes, one cost after the other (Gauss and
        Seidel), within bounds."""
        assumed_S3 = self._assumed_S3
        fits_S = (assumed_S3 * self._sums_S3).sum(axis=1)
        scale_S = fits_S / np.maximum(np.einsum("si,sij,sj->s", assumed_S3, self._squares_S33, assumed_S3), 1e-300)
        unit_S3 = assumed_S3 * scale_S[:, None]
        squares_S33 = self._squares_S33 * unit_S3[:, :, None] * unit_S3[:, None, :] + PULL_CALLS * np.eye(3)
        sums_S3, found_S3 = self._sums_S3 * unit_S3 + PULL_CALLS, np.ones_like(unit_S3)
        for _ in range(SWEEPS):
            for one in range(3):
                others_S = (squares_S33[:, one] * found_S3).sum(axis=1) - squares_S33[:, one, one] * found_S3[:, one]
                best_S = (sums_S3[:, one] - others_S) / squares_S33[:, one, one]
                found_S3[:, one] = np.clip(best_S, 1 / BOUND, BOUND)
        result: Floats = found_S3 * unit_S3
        return result


def _table(costs: ShardCosts) -> Floats:
    return np.stack([getattr(costs, name) for name in NAMES], axis=1)
