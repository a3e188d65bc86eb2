"""What a layer's call costs a shard: about a constant for each expert whose weights it reads, and for each row.

Decoding is bound by the first, a prompt by the second. S shards.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ShardCosts:
    """Microseconds by shard, [S]: for a call, for each expert that it touches, for each (token, expert) pair.

    All positive. Only ratios matter to decisions.
    """

    call_us_S: Floats
    expert_us_S: Floats
    pair_us_S: Floats

    def of(self, experts_S: NDArray[np.integer], pairs_S: NDArray[np.integer]) -> Floats:
        """A layer's time at each shard that touches so many experts for so many pairs; 0 where it is not asked."""
        time_S: Floats = self.call_us_S + self.expert_us_S * experts_S + self.pair_us_S * pairs_S
        return np.where(pairs_S > 0, time_S, 0.0)

    def resized(self, shards: int) -> "ShardCosts":
        """For so many shards; one that is new is taken to be as the median of those known."""
        return ShardCosts(*(_resized(us_S, shards) for us_S in (self.call_us_S, self.expert_us_S, self.pair_us_S)))


def _resized(us_S: Floats, shards: int) -> Floats:
    new = np.full(max(0, shards - len(us_S)), np.median(us_S))
    return np.concatenate([us_S[:shards], new])


def equal_costs(shards: int, call_us: float = 30.0, expert_us: float = 20.0, pair_us: float = 2.0) -> ShardCosts:
    """Costs before any were measured: the same for all shards."""
    call_us_S, expert_us_S, pair_us_S = (np.full(shards, us) for us in (call_us, expert_us, pair_us))
    return ShardCosts(call_us_S, expert_us_S, pair_us_S)
