"""Which rows and which assignments of a layer go to which shard: numpy, a few calls a layer, no torch.

T tokens, K experts per token, R rows sent to one shard, A its assignments.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.placement import Placement
from experts.routing import Routing


@dataclass(frozen=True, slots=True)
class ShardGroup:
    """A shard's part of a layer: the tokens it gets, and for each assignment the row, the expert's slot, the weight.

    Assignments are sorted by slot. `tokens_R` ascends. `pairs_A` is where the routing lists an assignment, token by
    token: token x K + place among the token's experts.
    """

    shard: int
    tokens_R: NDArray[np.int64]
    rows_A: NDArray[np.int32]
    slots_A: NDArray[np.int32]
    weights_A: NDArray[np.float32]
    pairs_A: NDArray[np.int64]


def group_by_shard(routing: Routing, placement: Placement) -> list[ShardGroup]:
    """Split a routing by shard; shards without tokens are left out, and so are lost tokens."""
    total, width = routing.expert_ids_TK.shape
    keys_N = placement.sort_key_of_E[routing.expert_ids_TK.reshape(-1)]
    # Stable: within an expert rows keep the order of tokens, so that the same input gives the same bits.
    order_N = keys_N.argsort(kind="stable")
    ranks_N = keys_N[order_N].astype(np.int32)
    weights_N = routing.weights_TK.reshape(-1)[order_N].astype(np.float32, copy=False)
    tokens_N = order_N // width
    ends = ranks_N.searchsorted(placement.ends_S).tolist()
    groups, start, rank = [], 0, 0
    for shard, (end, next_rank) in enumerate(zip(ends, placement.ends_S.tolist(), strict=True)):
        if end > start:
            part = slice(start, end)
            tokens_R, rows_A = _rows(tokens_N[part], total)
            slots_A = ranks_N[part] - np.int32(rank)
            groups.append(ShardGroup(shard, tokens_R, rows_A, slots_A, weights_N[part], order_N[part]))
        start, rank = end, next_rank
    return groups


def _rows(tokens_A: NDArray[np.int64], total: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The tokens that are sent, ascending, and for each assignment its token's place among them."""
    # A mask and not np.unique, which would sort.
    wanted_T = np.zeros(total, dtype=bool)
    wanted_T[tokens_A] = True
    tokens_R = wanted_T.nonzero()[0]
    # Usual with few shards: each token is sent, and its row has its own number.
    all_tokens = len(tokens_R) == total
    rows_A = tokens_A if all_tokens else (wanted_T.cumsum() - 1)[tokens_A]
    return tokens_R, rows_A.astype(np.int32)
