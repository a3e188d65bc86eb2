"""What keeps moves from chasing each other: what bytes must gain, cool-downs, and more gain for what undoes the last.

L MoE layers, E experts, S shards.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.balance.config import BalanceConfig
from cluster.balance.moves import Moves, holds
from experts.placement import Placement

# A move disturbs the shards that load: about this part of their time (a limit of bandwidth keeps it so), which its gain
# must have paid back within PAYBACK_SECONDS.
DISTURBANCE = 0.1
PAYBACK_SECONDS = 300.0
MIB = float(1 << 20)
# A plan undoes the last one if that has dropped half of the copies that it makes, within this many cool-downs.
UNDONE, REMEMBERED = 0.5, 5
MOST_DOUBLINGS = 5
# A plan has disappointed if it gave less than this part of what it promised.
KEPT_PROMISE = 0.5


def least_gain_for(work: Moves, config: BalanceConfig) -> float:
    """The gain that a move must promise: `least_gain`, or what pays back its loading, if that is more."""
    if not config.bandwidth_mib:
        return config.least_gain
    seconds = float(work.bytes_S.max(initial=0)) / (config.bandwidth_mib * MIB)
    return max(config.least_gain, DISTURBANCE * seconds / PAYBACK_SECONDS)


class Restraint:
    """Remembers moves. `until` is when the next may begin."""

    def __init__(self, cooldown_s: float) -> None:
        self.until = 0.0
        self._cooldown_s = cooldown_s
        self._remembered_s = REMEMBERED * max(cooldown_s, 1.0)
        self._failures = 0
        self._reversals = 0
        self._disappointments, self._disappointed = 0, 0.0
        self._last: tuple[float, NDArray[np.int8]] | None = None

    def began(self, now: float, before: Placement, after: Placement, layers: Sequence[int]) -> None:
        """A move has begun; none follows while it is on."""
        self._reversals = self._reversals + 1 if self._undoes(now, before, after, layers) else 0
        self._last = (now, changes(before, after, layers))
        self.until = now + self._cooldown_s

    def ended(self, now: float, failed: bool = False) -> None:
        """A move is over. After failures in a row the next waits for twice as many cool-downs each time."""
        self._failures = min(self._failures + 1, MOST_DOUBLINGS) if failed else 0
        if failed:
            self._last = None  # nothing was changed
        self.until = now + self._cooldown_s * 2**self._failures

    def resume(self, plans: Sequence[tuple[float, bool]]) -> None:
        """Go on behind plans that another balancer has made: when each ended, and whether it failed, oldest first."""
        for ended, failed in plans:
            self.ended(ended, failed)

    def measured(self, now: float, promised: float, gave: float) -> None:
        """After plans that gave less than half of what they promised the next must promise more."""
        kept = gave >= KEPT_PROMISE * promised
        self._disappointments, self._disappointed = 0 if kept else self._disappointments + 1, now

    def factor(self, now: float, current: Placement, planned: Placement, layers: Sequence[int]) -> float:
        """By how much more than usual a plan must promise: twice for each disappointment or reversal in a row.

        Each disappointment is held against plans for `REMEMBERED` cool-downs.
        """
        if now - self._disappointed > self._disappointments * self._remembered_s:
            self._disappointments = 0
        reversals = self._reversals + 1 if self._undoes(now, current, planned, layers) else 0
        return float(2 ** min(MOST_DOUBLINGS, reversals + self._disappointments))

    def _undoes(self, now: float, before: Placement, after: Placement, layers: Sequence[int]) -> bool:
        if self._last is None or now - self._last[0] > self._remembered_s:
            return False
        mine, last = changes(before, after, layers), self._last[1]
        if mine.shape != last.shape:
            return False
        # By what it takes over again, as whatever goes on from the last plan drops some of what that has made.
        taken_LES = mine > 0
        return bool((taken_LES & (last < 0)).sum() >= UNDONE * max(1, taken_LES.sum()))


def changes(before: Placement, after: Placement, layers: Sequence[int]) -> NDArray[np.int8]:
    """1 where a shard takes over an expert, -1 where it drops it, [L, E, S]."""
    shards = max(before.shards, after.shards)
    return np.stack(
        [
            holds(after.layer(layer), shards).astype(np.int8) - holds(before.layer(layer), shards).astype(np.int8)
            for layer in layers
        ]
    )
