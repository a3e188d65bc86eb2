"""Attention of all single rows of a step on a GPU: two launches, whatever the rows' lengths.

Flash-Decoding (Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference"): a long context is cut into
parts that are computed side by side and merged afterwards. Here parts have a fixed size and are merged in order: a
row's result follows from the row alone, and the same input gives the same bits.
Legend: B rows, H heads, J key-value heads, G = H / J, C and V sizes of a key and a value, Q parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.attention.paged import LayerCache, PagedRows
from kernels.triton.attention_kernels import merge_kernel, part_kernel
from kernels.triton.dot import INTERPRETED

# Positions of a part. A part writes H x V sums in float32: with latents, which many heads share and which are read once
# for keys and values, parts of 256 would write as much as they read.
PART = 256
LATENT_PART = 1024
# What tl.dot takes at least.
_LEAST = 16


@dataclass(frozen=True)
class Blocks:
    """Block sizes: they follow from the layer's shape alone, as does the order of additions.

    heads: of one key-value head that share a program; positions: of one step of its loop; key and rest: how a key is
    split; value; warps of a program.
    """

    heads: int
    positions: int
    key: int
    rest: int
    value: int
    warps: int


def choose_blocks(group: int, key_size: int, value_size: int, dtype: torch.dtype) -> Blocks:
    """The blocks for G heads that share keys: what fits into the shared memory of an A100 (163 KiB) twice."""
    key, rest = split_size(key_size)
    value = _power(value_size)
    positions = 64 if max(key, value) <= 128 else 32
    if dtype == torch.float32:
        positions //= 2
    heads = _LEAST if group <= _LEAST or dtype == torch.float32 else 2 * _LEAST
    return Blocks(heads, positions, key, rest, value, warps=4 if max(key, value) <= 256 else 8)


def split_size(size: int) -> tuple[int, int]:
    """Two powers of two (the second may be 0) that together hold `size` elements with little padding."""
    whole = max(_LEAST, 1 << (size.bit_length() - 1))
    return whole, _power(size - whole) if size > whole else 0


def paged_attention(
    q_BHC: Tensor, cache: LayerCache, rows: PagedRows, scale: float, sinks_H: Tensor | None = None
) -> Tensor:
    """As `reference.paged_attention`. A row's result does not depend on the rows beside it. Never waits for the device.

    Raises ValueError unless the elements of a key, and those of a value, lie side by side in the cache.
    """
    keys, values = cache.keys_SJC, cache.keys_SJC if cache.values_SJV is None else cache.values_SJV
    if keys.stride(2) != 1 or values.stride(2) != 1:
        raise ValueError(f"a key's elements must lie side by side, got strides {keys.stride()} and {values.stride()}")
    out_BHV = q_BHC.new_empty(*q_BHC.shape[:2], cache.value_size)
    if out_BHV.numel():
        parts = rows.parts(PART if cache.values_SJV is not None else LATENT_PART)
        sums_QHV = q_BHC.new_empty(len(parts.parts_Q3), *out_BHV.shape[1:], dtype=torch.float32)
        stats_QH2 = q_BHC.new_empty(*sums_QHV.shape[:2], 2, dtype=torch.float32)
        blocks = choose_blocks(q_BHC.shape[1] // keys.shape[1], keys.shape[2], cache.value_size, q_BHC.dtype)
        shared = cache.values_SJV is None and cache.value_size == blocks.key
        _sum_parts(q_BHC.contiguous(), keys, values, scale, parts.slots_N, parts.parts_Q3, sums_QHV, stats_QH2,
                   blocks, shared)  # fmt: skip
        merge_kernel[q_BHC.shape[:2]](
            sums_QHV, stats_QH2, parts.offsets_B1, out_BHV if sinks_H is None else sinks_H.contiguous(), out_BHV,
            out_BHV.shape[1], cache.value_size, SINKS=sinks_H is not None, BLOCK_V=blocks.value,
        )  # fmt: skip
    return out_BHV


def _sum_parts(
    q_BHC: Tensor, keys_SJC: Tensor, values_SJV: Tensor, scale: float, slots_N: Tensor, parts_Q3: Tensor,
    sums_QHV: Tensor, stats_QH2: Tensor, blocks: Blocks, shared: bool,
) -> None:  # fmt: skip
    """Each part's sum over its positions, with its maximum and total."""
    heads, kv_heads = q_BHC.shape[1], keys_SJC.shape[1]
    group = heads // kv_heads
    programs = len(parts_Q3) * kv_heads * triton.cdiv(group, blocks.heads)
    part_kernel[(programs,)](
        q_BHC, keys_SJC, values_SJV, slots_N, parts_Q3, sums_QHV, stats_QH2, scale, heads, group, q_BHC.shape[2],
        sums_QHV.shape[2], *keys_SJC.stride()[:2], *values_SJV.stride()[:2],
        SHARED=shared, BLOCK_G=blocks.heads, BLOCK_M=blocks.positions, BLOCK_C=blocks.key, BLOCK_R=blocks.rest,
        BLOCK_V=blocks.value, INTERPRETED=INTERPRETED, num_warps=blocks.warps, num_stages=2,
    )  # fmt: skip


def _power(size: int) -> int:
    return max(_LEAST, int(triton.next_power_of_2(size)))
