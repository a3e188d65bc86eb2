"""What shards were asked for under one placement. S shards, L all layers.

What an earlier placement made of the load says nothing of this one, and the mean of both would say nothing of either:
so with a new placement the counting begins anew.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.balance import Counts, Floats, max_over_mean
from experts.placement import Placement


@dataclass(frozen=True, slots=True)
class ShardLoad:
    """`counts_LS` are (token, expert) pairs that shards answered, `holds_LS` the shards that hold experts of a layer,
    as of the placement of `epoch`. Counts and placement are one object: no thread reads them of two placements.
    """

    epoch: int
    holds_LS: NDArray[np.bool_]
    counts_LS: Counts

    @classmethod
    def under(cls, placement: Placement, layers: int, shards: int) -> "ShardLoad":
        """Nothing was counted yet."""
        holds_LS = np.zeros((layers, shards), dtype=np.bool_)
        holds_LS[:, _holding(placement.everywhere.blocks)] = True
        for layer, placed in placement.special.items():
            holds_LS[layer] = False
            holds_LS[layer, _holding(placed.blocks)] = True
        return cls(placement.epoch, holds_LS, np.zeros((layers, shards), dtype=np.int64))

    @property
    def holders_L(self) -> Counts:
        """How many shards hold experts of each layer."""
        holders_L: Counts = self.holds_LS.sum(axis=1)
        return holders_L

    def copy(self) -> "ShardLoad":
        """A snapshot."""
        return ShardLoad(self.epoch, self.holds_LS, self.counts_LS.copy())

    def minus(self, old: "ShardLoad") -> "ShardLoad":
        """What was counted since `old`, or since this placement is in use if that was later."""
        since_LS = self.counts_LS - old.counts_LS if old.epoch == self.epoch else self.counts_LS.copy()
        return ShardLoad(self.epoch, self.holds_LS, since_LS)

    def ratios(self) -> Floats:
        """Max / mean over the shards that hold experts of the layer, for each layer that was computed."""
        busy_L = self.counts_LS.any(axis=1)
        return max_over_mean(self.counts_LS[busy_L], self.holders_L[busy_L])


def _holding(blocks: tuple[tuple[int, ...], ...]) -> list[int]:
    return sorted({shard for shards in blocks for shard in shards})
