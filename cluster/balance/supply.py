"""What shards there are, and what each may hold: the planner's other input. S shards, counted from 0."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.costs import ShardCosts


@dataclass(frozen=True, slots=True)
class Supply:
    """Of each shard: `slots_S` (layer, expert) copies that its memory holds, 0 for one that is to hold nothing; its
    costs, whose inverse is its speed; and `nodes_S`, where it runs: copies of an expert go to different nodes.

    `copies` is how many shards must hold each expert, at least. `expert_bytes` is one expert of one layer in memory.
    """

    slots_S: NDArray[np.int64]
    costs: ShardCosts
    nodes_S: tuple[str, ...]
    copies: int = 1
    expert_bytes: int = 0

    @property
    def usable_S(self) -> NDArray[np.bool_]:
        """The shards that may hold experts."""
        return self.slots_S > 0
