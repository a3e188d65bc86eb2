"""The division where shards answer with a sum for each row (`Form.SUMS`): by block, each asked of one shard as a whole.

Blocks are added in their order, so that who answers for one changes no bit. T tokens, K experts per token, B blocks.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from experts.costs import ShardCosts
from experts.division.base import NOTHING, CallRows, Sizes, distinct
from experts.division.grouping import BlockGroup, group_by_block
from experts.placement import LayerPlacement, Shards
from experts.routing import Routing


class BlockDivision:
    """A `Division` of a routing. Where blocks have several holders, `costs` decide.

    Args:
        ranks: of each shard; of a block's holders only those of the lowest one are asked.
    """

    def __init__(self, routing: Routing, layer: LayerPlacement, costs: ShardCosts, ranks: Sequence[int]) -> None:
        self._total, self._width = routing.expert_ids_TK.shape
        self._groups = group_by_block(routing, layer)
        self.holders = [layer.blocks[group.block] for group in self._groups]
        self.ends = [0, *accumulate(len(group.tokens_R) for group in self._groups)]
        self.chosen = [shards[0] for shards in self.holders]
        if layer.shared:
            self.chosen = choose_blocks(self._groups, self.holders, costs, ranks)
        runs: dict[int, list[int]] = {}
        for part, shard in enumerate(self.chosen):
            runs.setdefault(shard, []).append(part)
        self.runs = list(runs.items())

    def call_rows(self, parts: Sequence[int]) -> CallRows:
        """See `Division`. Assignments are sorted by expert; a row's own keep their order, so its sum has the same bits
        as alone."""
        groups = [self._groups[part] for part in parts]
        if len(groups) == 1:
            one = groups[0]
            return CallRows(one.tokens_R, one.rows_A, one.experts_A, one.weights_A, len(one.tokens_R) == self._total)
        starts = accumulate((len(group.tokens_R) for group in groups), initial=0)
        experts_A = np.concatenate([group.experts_A for group in groups])
        rows_A = np.concatenate([group.rows_A + np.int32(start) for group, start in zip(groups, starts, strict=False)])
        weights_A = np.concatenate([group.weights_A for group in groups])
        order_A = experts_A.argsort(kind="stable")
        tokens_R = np.concatenate([group.tokens_R for group in groups])
        return CallRows(tokens_R, rows_A[order_A], experts_A[order_A], weights_A[order_A], False)

    def sizes(self, parts: Sequence[int]) -> Sizes:
        """See `Division`."""
        groups = [self._groups[part] for part in parts]
        experts = sum([distinct(group.experts_A) for group in groups])
        return Sizes(sum([len(one.tokens_R) for one in groups]), sum([len(one.rows_A) for one in groups]), experts)

    def places(self) -> NDArray[np.int64]:
        """See `Division`: a token's sums in the order of the blocks."""
        if self.ends[-1] == self._total * len(self._groups):
            return _whole(self._total, len(self._groups))
        places_TW = np.zeros((self._total, len(self._groups)), np.int64)
        for part, group in enumerate(self._groups):
            places_TW[group.tokens_R, part] = np.arange(1 + self.ends[part], 1 + self.ends[part + 1])
        return places_TW

    def without(self, places_TW: NDArray[np.int64], parts: Sequence[int]) -> NDArray[np.int64]:
        """See `Division`."""
        places_TW = places_TW.copy()
        places_TW[:, list(parts)] = NOTHING
        return places_TW

    def pairs(self, part: int) -> NDArray[np.int64]:
        """See `Division`."""
        return self._groups[part].pairs_A


def choose_blocks(
    groups: Sequence[BlockGroup], holders: Sequence[Shards], costs: ShardCosts, ranks: Sequence[int]
) -> list[int]:
    """Whom to ask for each block: the largest first, each of whoever is then done soonest."""
    weights = [(distinct(group.experts_A), len(group.experts_A)) for group in groups]
    one_S, each_S = costs.expert_us_S.tolist(), costs.pair_us_S.tolist()
    taken, chosen = costs.call_us_S.tolist(), [shards[0] for shards in holders]
    # Blocks with one holder first: nothing is decided for them.
    order = sorted(range(len(groups)), key=lambda part: (len(holders[part]) > 1, -weights[part][0], -weights[part][1]))
    for part in order:
        experts, pairs = weights[part]
        lowest = min(ranks[shard] for shard in holders[part])
        after = {s: taken[s] + one_S[s] * experts + each_S[s] * pairs for s in holders[part] if ranks[s] == lowest}
        shard = chosen[part] = min(after, key=lambda shard: after[shard])
        taken[shard] = after[shard]
    return chosen


@lru_cache(maxsize=256)
def _whole(tokens: int, groups: int) -> NDArray[np.int64]:
    """Places of the sums of so many groups of all tokens. Not to be written to."""
    return np.ascontiguousarray(np.arange(1, 1 + tokens * groups).reshape(groups, tokens).T)
