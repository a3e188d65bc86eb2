"""Attention of single rows on a CPU: few calls for all rows of a layer, not one for each.

Keys and values of rows of like lengths are copied into one buffer that stays in the CPU's cache, and attended to by one
call. A long context is read in place by a call of its own: there the call costs little beside the reading. Thresholds:
`python -m tests.benchmarks.bench_attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention.fused import fused_attention
from kernels.attention.paged import LayerCache, PaddedRows, PagedRows, read
from kernels.formats.buffers import BUFFERS

# Copied at a time, unless one row takes more. Twice as much gains nothing, a quarter of it costs up to 30%.
_GROUP_BYTES = 2 << 20
# Keys and values of a longer context are not copied. Below it copying wins from 400 tokens on even for a single row: a
# head's keys lie apart in the cache, and torch's kernel reads them slowly there (measured where they are in DRAM).
_COPIED_BYTES = 8 << 20
# Latents of a token are together: to copy them pays for short contexts only, where a call costs more than the copy.
_COPIED_LATENT_BYTES = 128 << 10


def paged_attention(
    q_BHC: Tensor, cache: LayerCache, rows: PagedRows, scale: float, sinks_H: Tensor | None = None
) -> Tensor:
    """As `reference.paged_attention`. A row's result does not depend on the rows beside it."""
    copied = _COPIED_LATENT_BYTES if cache.values_SJV is None else _COPIED_BYTES
    token_bytes = cache.token_bytes
    plan = rows.plan(_GROUP_BYTES // token_bytes, copied // token_bytes, q_BHC.dtype)
    if len(plan.padded) == 1 and not plan.alone:
        return _padded(q_BHC, cache, plan.padded[0], scale, sinks_H)
    q_BHC = q_BHC if plan.order_B is None else q_BHC.index_select(0, plan.order_B)
    out_BHV = q_BHC.new_empty(*q_BHC.shape[:2], cache.value_size)
    for group in plan.padded:
        part = slice(group.first, group.last)
        out_BHV[part] = _padded(q_BHC[part], cache, group, scale, sinks_H)
    for place, row in enumerate(plan.alone, len(rows) - len(plan.alone)):
        out_BHV[place] = _alone(q_BHC[place, None], cache, rows.slots(row), scale, sinks_H)[0]
    return out_BHV if plan.inverse_B is None else out_BHV.index_select(0, plan.inverse_B)


def _padded(q_BHC: Tensor, cache: LayerCache, group: PaddedRows, scale: float, sinks_H: Tensor | None) -> Tensor:
    k_BJPC = _gathered("attention keys", cache.keys_SJC, group)
    # Latents are keys and values: what is computed behind the values' size is dropped, for a copy less.
    v_BJPC = k_BJPC if cache.values_SJV is None else _gathered("attention values", cache.values_SJV, group)
    out_BHV = _attend(q_BHC, k_BJPC, v_BJPC, scale, group.mask_B11P, sinks_H)
    return out_BHV if cache.values_SJV is not None else out_BHV[..., : cache.value_size]


def _alone(q_1HC: Tensor, cache: LayerCache, slots: slice | Tensor, scale: float, sinks_H: Tensor | None) -> Tensor:
    k_1JMC = read(cache.keys_SJC, slots).transpose(0, 1).unsqueeze(0)
    v_1JMC = k_1JMC if cache.values_SJV is None else read(cache.values_SJV, slots).transpose(0, 1).unsqueeze(0)
    return _attend(q_1HC, k_1JMC, v_1JMC, scale, None, sinks_H)[..., : cache.value_size]


def _gathered(name: str, stored_SJC: Tensor, group: PaddedRows) -> Tensor:
    """Each row's stored elements, [B, J, P, C]."""
    rows, (_, heads, size) = group.last - group.first, stored_SJC.shape
    shape = (rows * group.length, heads, size)
    kept = BUFFERS.shaped(name, shape, stored_SJC.dtype, stored_SJC.device)
    torch.index_select(stored_SJC, 0, group.slots_BP, out=kept)
    return kept.view(rows, group.length, heads, size).transpose(1, 2)


def _attend(
    q_BHC: Tensor, k_BJPC: Tensor, v_BJPC: Tensor, scale: float, mask: Tensor | None, sinks_H: Tensor | None
) -> Tensor:
    """The G = H / J heads of a key-value head become rows, so that keys are read once for all of them."""
    kv_heads = k_BJPC.shape[1]
    sinks_JG = None if sinks_H is None else sinks_H.view(kv_heads, -1)
    q_BJGC = q_BHC.reshape(q_BHC.shape[0], kv_heads, -1, q_BHC.shape[-1])
    return fused_attention(q_BJGC, k_BJPC, v_BJPC, scale, mask, sinks=sinks_JG).flatten(1, 2)
