"""Where the rows of a layer's calls are gathered. T tokens, R rows of one call, D hidden."""

from collections.abc import Sequence

import torch
from torch import Tensor

from experts.division.base import CallRows


class GatherRoom:
    """A buffer that the rows of one lane's calls are gathered into, layer after layer; it grows and is kept.

    What it returned is overwritten by the next call.
    """

    def __init__(self) -> None:
        self._rows_ND = torch.empty(0, 0)

    def rows(self, x_TD: Tensor, calls: Sequence[CallRows]) -> list[Tensor]:
        """x_RD of each call, contiguous: x_TD itself where a call has all tokens, as is usual with few shards."""
        x_TD = x_TD.contiguous()
        parts = [len(call.tokens_R) for call in calls if not call.whole]
        if parts:
            self._grow(sum(parts), x_TD)
        found, start = [], 0
        for call in calls:
            if call.whole:
                found.append(x_TD)
                continue
            part_RD = self._rows_ND[start : start + len(call.tokens_R)]
            found.append(torch.index_select(x_TD, 0, torch.from_numpy(call.tokens_R), out=part_RD))
            start += len(call.tokens_R)
        return found

    def _grow(self, rows: int, like: Tensor) -> None:
        if len(self._rows_ND) < rows or self._rows_ND.shape[1] != like.shape[1] or self._rows_ND.dtype != like.dtype:
            with torch.inference_mode(False):  # else it could not be written to outside that mode
                self._rows_ND = torch.empty(rows, like.shape[1], dtype=like.dtype)
