"""Attention of single rows over a paged cache, one after the other: oracle, fallback, documentation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.attention.fused import softmax_with_sinks
from kernels.attention.paged import LayerCache, PagedRows


def paged_attention(
    q_BHC: Tensor, cache: LayerCache, rows: PagedRows, scale: float, sinks_H: Tensor | None = None
) -> Tensor:
    """Return out_BHV in q's dtype: row b attends to all slots that `rows` names for it. H is a multiple of J.

    Which tokens a row sees (all, a window, a chunk) is decided by its slots. `scale` multiplies the logits; a sink is
    one more logit of its head, whose share is dropped.
    """
    out_BHV = q_BHC.new_empty(*q_BHC.shape[:2], cache.value_size)
    for row in range(len(rows)):
        out_BHV[row] = one_row(q_BHC[row, None], *cache.read(rows.slots(row)), scale, sinks_H)[0]
    return out_BHV


def one_row(q_1HC: Tensor, k_MJC: Tensor, v_MJV: Tensor, scale: float, sinks_H: Tensor | None) -> Tensor:
    """One row that attends to all M keys: the H / J heads of a key-value head become rows, so keys are read once."""
    heads, kv_heads = q_1HC.shape[1], k_MJC.shape[1]
    q = q_1HC.reshape(1, kv_heads, -1, q_1HC.shape[-1])
    k, v = (t.transpose(0, 1).unsqueeze(0) for t in (k_MJC, v_MJV))
    if sinks_H is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale).reshape(1, heads, -1)
    scores_JGM = (q[0] * scale) @ k[0].transpose(1, 2)
    return (softmax_with_sinks(scores_JGM, sinks_H.view(kv_heads, -1, 1)) @ v[0]).view(1, heads, -1)
