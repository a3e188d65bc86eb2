"""What a grammar rules out: only rows that have one are masked, and all filters see what is left. B rows, V vocabulary.

It comes behind logit bias and penalties, so nothing can bring back what it rules out. Of the changes before it only
`min_tokens` rules tokens out altogether; where a row would have none left, the grammar goes first (`may_wait`).
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from router_service.engine.sampling.rows import SampleRow


def masked(logits_BV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Return the logits with -inf for what grammars rule out; the argument itself if no row has one."""
    masks = [(index, row.matcher.allowed) for index, row in enumerate(rows) if row.matcher is not None]
    if not masks:
        return logits_BV
    places, size = [index for index, _ in masks], logits_BV.shape[1]
    bits_MV = np.unpackbits(np.stack([mask for _, mask in masks]), axis=1, count=size, bitorder="little")
    ruled_out_MV = torch.from_numpy(bits_MV == 0).to(logits_BV.device)
    if len(places) == len(rows):
        return logits_BV.masked_fill(ruled_out_MV, -torch.inf)
    changed_BV = logits_BV.clone()
    changed_BV[places] = logits_BV[places].masked_fill_(ruled_out_MV, -torch.inf)
    return changed_BV


def may_wait(row: SampleRow, stops: Collection[int]) -> bool:
    """Whether a row's grammar allows anything but these tokens, which `min_tokens` would rule out."""
    return row.matcher is None or not row.matcher.only(stops)
