"""Where the answers of a layer's shards are received, and how they add up to the layer's output.

T tokens, W answers that a token has at most, N rows of all answers, D hidden.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experts.division.base import NOTHING

SUM_MODE = 0  # of torch.embedding_bag


class AnswerRoom:
    """A buffer that one lane's answers are received into, layer after layer: it grows and is never given back.

    Its first row is zeros.
    """

    def __init__(self) -> None:
        self._rows_ND = np.zeros((1, 0), np.float32)
        self._tensor_ND = torch.from_numpy(self._rows_ND)

    def rows(self, count: int, hidden: int) -> NDArray[np.float32]:
        """Return so many rows for a layer's answers; the first is place 1."""
        if len(self._rows_ND) <= count or self._rows_ND.shape[1] != hidden:
            self._rows_ND = np.empty((1 + count, hidden), np.float32)
            self._rows_ND[NOTHING] = 0.0
            self._tensor_ND = torch.from_numpy(self._rows_ND)
        return self._rows_ND[1 : 1 + count]

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
