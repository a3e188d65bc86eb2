"""Where the answers of a layer's shards are received, and how they add up to the layer's output.

T tokens, W answers that a token has at most, N rows of all answers, D hidden.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.grouping import BlockGroup
from experts.transport.call import Form

# Its first row is zeros: it stands for what a token has not, or has lost.
NOTHING = 0
SUM_MODE = 0  # of torch.embedding_bag


class AnswerRoom:
    """A buffer that one lane's answers are received into, layer after layer: it grows and is never given back."""

    def __init__(self) -> None:
        self._rows_ND = np.zeros((1, 0), np.float32)
        self._tensor_ND = torch.from_numpy(self._rows_ND)

    def parts(self, counts: list[int], hidden: int) -> list[NDArray[np.float32]]:
        """Return a part of so many rows for each block's answer, one behind the other from row 1 on."""
        if len(self._rows_ND) <= sum(counts) or self._rows_ND.shape[1] != hidden:
            self._rows_ND = np.empty((1 + sum(counts), hidden), np.float32)
            self._rows_ND[NOTHING] = 0.0
            self._tensor_ND = torch.from_numpy(self._rows_ND)
        parts, start = [], 1
        for count in counts:
            parts.append(self._rows_ND[start : start + count])
            start += count
        return parts

    def sum(self, places_TW: NDArray[np.int64]) -> Tensor:
        """y_TD float32: for each token the rows of its places, added one after the other in their order, from zero.

        The same rows in the same order give the same bits, whatever stands beside them.
        """
        if not places_TW.size:  # nobody was asked
            return torch.zeros(len(places_TW), self._rows_ND.shape[1])
        # One call, which walks the rows of a bag in order; `Tensor.sum` may add in any. Not by way of
        # `torch.nn.functional`, whose checks take longer than the sum of a few rows.
        bags = _bags(*places_TW.shape)
        flat = torch.from_numpy(places_TW).view(-1)
        return torch.embedding_bag(self._tensor_ND, flat, bags, False, SUM_MODE)[0]


@lru_cache(maxsize=256)
def _bags(tokens: int, width: int) -> Tensor:
    """Where each token's places begin."""
    return torch.arange(0, tokens * width, width)


@lru_cache(maxsize=256)
def _whole(tokens: int, groups: int) -> NDArray[np.int64]:
    """Places of the sums of so many groups of all tokens. Not to be written to."""
    return np.ascontiguousarray(np.arange(1, 1 + tokens * groups).reshape(groups, tokens).T)


def places(form: Form, groups: Sequence[BlockGroup], tokens: int, top_k: int) -> NDArray[np.int64]:
    """Where each token's answers lie in the room, in the order in which they are added, [T, W].

    With sums that is the order of the blocks (see `LayerPlacement`), whoever answers for them. With rows it is the
    order in which the token's routing lists its experts, which nothing but the token's own logits decides.
    """
    if form is Form.SUMS and all(len(group.tokens_R) == tokens for group in groups):
        return _whole(tokens, len(groups))
    places_TW = np.zeros((tokens, top_k if form is Form.EACH else len(groups)), np.int64)
    start = 1
    for number, group in enumerate(groups):
        if form is Form.EACH:
            places_TW.reshape(-1)[group.pairs_A] = np.arange(start, start + len(group.pairs_A))
            start += len(group.pairs_A)
        else:
            places_TW[group.tokens_R, number] = np.arange(start, start + len(group.tokens_R))
            start += len(group.tokens_R)
    return places_TW


def without(
    places_TW: NDArray[np.int64], form: Form, groups: Sequence[BlockGroup], missing: Sequence[bool]
) -> NDArray[np.int64]:
    """The places with zeros in those of answers that did not come."""
    places_TW = places_TW.copy()
    for number, (group, gone) in enumerate(zip(groups, missing, strict=True)):
        if gone and form is Form.EACH:
            places_TW.reshape(-1)[group.pairs_A] = NOTHING
        elif gone:
            places_TW[:, number] = NOTHING
    return places_TW
