"""Which rows and which assignments of a layer go to which block of experts: numpy, a few calls a layer, no torch.

T tokens, K experts per token, R rows sent for one block, A its assignments.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experts.placement import LayerPlacement
from experts.routing import Routing

ONE_TOKEN = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class BlockGroup:
    """A block's part of a layer: the tokens it gets, and for each assignment the row, the expert, the weight.

    Assignments are sorted by expert. `tokens_R` ascends. `pairs_A` is where the routing lists an assignment, token by
    token: token x K + place among the token's experts.
    """

    block: int
    tokens_R: NDArray[np.int64]
    rows_A: NDArray[np.int32]
    experts_A: NDArray[np.int32]
    weights_A: NDArray[np.float32]
    pairs_A: NDArray[np.int64]


def group_by_block(routing: Routing, layer: LayerPlacement) -> list[BlockGroup]:
    """Split a routing by block; blocks without tokens are left out, and so are lost tokens."""
    total, width = routing.expert_ids_TK.shape
    keys_N = layer.sort_key_of_E[routing.expert_ids_TK.reshape(-1)]
    # Stable: within an expert rows keep the order of tokens, so that the same input gives the same bits.
    order_N = keys_N.argsort(kind="stable")
    ranks_N = keys_N[order_N]
    experts_N = layer.expert_of_rank_E[ranks_N]
    weights_N = routing.weights_TK.reshape(-1)[order_N].astype(np.float32, copy=False)
    tokens_N = (order_N // width).astype(np.int32)
    groups, start = [], 0
    for block, end in enumerate(ranks_N.searchsorted(layer.end_keys_B).tolist()):
        if end > start:
            part = slice(start, end)
            tokens_R, rows_A, _ = rows_of(tokens_N[part], total)
            groups.append(BlockGroup(block, tokens_R, rows_A, experts_N[part], weights_N[part], order_N[part]))
        start = end
    return groups


def rows_of(tokens_A: NDArray[np.int32], total: int) -> tuple[NDArray[np.int64], NDArray[np.int32], bool]:
    """The tokens that are sent, ascending; for each assignment its token's place among them; whether it is all."""
    if total == 1:
        return ONE_TOKEN, tokens_A, True
    # A mask and not np.unique, which would sort.
    wanted_T = np.zeros(total, dtype=bool)
    wanted_T[tokens_A] = True
    tokens_R = wanted_T.nonzero()[0]
    # Usual with few shards: each token is sent, and its row has its own number.
    if len(tokens_R) == total:
        return tokens_R, tokens_A, True
    return tokens_R, (wanted_T.cumsum(dtype=np.int32) - np.int32(1))[tokens_A], False
