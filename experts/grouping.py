"""Which rows and which assignments of a layer go to which shard: numpy, a few calls a layer, no torch.

T tokens, K experts per token, R rows sent to one shard, A its assignments.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.placement import Placement
from experts.routing import LOST, Routing


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """A shard's part of a layer: the tokens it gets, and for each assignment the row, the expert's slot, the weight.

    Assignments are sorted by slot. `tokens_R` ascends.
    """

    shard: int
    tokens_R: NDArray[np.int64]
    rows_A: NDArray[np.int32]
    slots_A: NDArray[np.int32]
    weights_A: NDArray[np.float32]


def group_by_shard(routing: Routing, placement: Placement) -> list[ShardGroup]:
    """Split a routing by shard; shards without tokens are left out, and so are lost tokens."""
    ids_TK = routing.expert_ids_TK
    width = ids_TK.shape[1]
    ids_N = ids_TK.reshape(-1)
    keys_N = placement.rank_of_E[ids_N]
    if (ids_N == LOST).any():
        keys_N = np.where(ids_N == LOST, placement.experts, keys_N)  # past the last rank: sorted behind all shards
    # Stable: within an expert rows keep the order of tokens, so that the same input gives the same bits.
    order_N = np.argsort(keys_N, kind="stable")
    ends = np.searchsorted(keys_N[order_N], placement.ends_S)
    tokens_N, weights_N = order_N // width, routing.weights_TK.reshape(-1)[order_N]
    slots_N = placement.slot_of_E[ids_N[order_N]]
    groups, start = [], 0
    for shard, end in enumerate(ends.tolist()):
        if end > start:
            part = slice(start, end)
            groups.append(_group(shard, tokens_N[part], slots_N[part], weights_N[part], len(ids_TK)))
        start = end
    return groups


def _group(
    shard: int, tokens_A: NDArray[np.int64], slots_A: NDArray[np.int64], weights_A: NDArray[np.float32], total: int
) -> ShardGroup:
    # A mask and not np.unique, which would sort.
    wanted_T = np.zeros(total, dtype=bool)
    wanted_T[tokens_A] = True
    row_of_T = np.cumsum(wanted_T, dtype=np.int32) - 1
    return ShardGroup(
        shard,
        np.flatnonzero(wanted_T),
        row_of_T[tokens_A].astype(np.int32),
        slots_A.astype(np.int32),
        np.ascontiguousarray(weights_A, dtype=np.float32),
    )
