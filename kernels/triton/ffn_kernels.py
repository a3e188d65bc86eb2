"""The Triton kernels of the expert FFN, which `kernels.triton.ffn` launches: one program computes one tile.

A tile has rows of one expert; a program behind the last tile ends at once. Names are those of `kernels.triton.ffn`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton.dot import dot


@triton.jit  # type: ignore[untyped-decorator]
def find_tile(offsets_ptr: tl.tensor, experts: tl.tensor, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr) -> tl.tensor:
    """This program's expert, its first row and the expert's last row + 1; an empty range behind the last tile."""
    tile = tl.program_id(0)
    e = tl.arange(0, BLOCK_E)
    starts = tl.load(offsets_ptr + e, mask=e < experts, other=0)
    ends = tl.load(offsets_ptr + e + 1, mask=e < experts, other=0)
    tiles = (ends - starts + BLOCK_M - 1) // BLOCK_M
    tile_ends = tl.cumsum(tiles, axis=0)
    expert = tl.sum((tile_ends <= tile).to(tl.int64), axis=0)
    mine = e == expert
    first = tl.sum(tl.where(mine, starts + (tile - tile_ends + tiles) * BLOCK_M, 0), axis=0)
    return expert, first, tl.sum(tl.where(mine, ends, 0), axis=0)


@triton.jit  # type: ignore[untyped-decorator]
def bias_row(bias_ptr: tl.tensor, columns: tl.tensor, size: tl.tensor) -> tl.tensor:
    """One expert's bias of these columns, in float32, for every row."""
    return tl.load(bias_ptr + columns, mask=columns < size, other=0.0).to(tl.float32)[None, :]


@triton.jit  # type: ignore[untyped-decorator]
def activate(gate: tl.tensor, up: tl.tensor, alpha: tl.tensor, limit: tl.tensor, CLAMPED: tl.constexpr) -> tl.tensor:
    """As `reference.activate`, in float32."""
    if CLAMPED:
        # Not tl.minimum: a NaN must stay one.
        gate = tl.where(gate > limit, limit, gate)
        up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
        h = (up + 1) * gate * tl.sigmoid(alpha * gate)
    else:
        h = gate * tl.sigmoid(gate) * up
    return h


@triton.jit  # type: ignore[untyped-decorator]
def gate_up_kernel(
    x_ptr: tl.tensor, w_ptr: tl.tensor, bias_ptr: tl.tensor, token_ptr: tl.tensor, weight_ptr: tl.tensor,
    offsets_ptr: tl.tensor, h_ptr: tl.tensor,
    experts: tl.tensor, hidden: tl.tensor, ffn: tl.tensor, alpha: tl.tensor, limit: tl.tensor,
    CLAMPED: tl.constexpr, WEIGHTED: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:  # fmt: skip
    """h of one tile: the gathered rows times gate and up, biased, activated, in h's dtype."""
    expert, first, end = find_tile(offsets_ptr, experts, BLOCK_M, BLOCK_E)
    if first >= end:
        return
    rows = first + tl.arange(0, BLOCK_M)
    f = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    token = tl.load(token_ptr + rows, mask=rows < end, other=0)
    if WEIGHTED:
        weight = tl.load(weight_ptr + rows, mask=rows < end, other=0.0)[:, None]
    x_tile = x_ptr + token[:, None] * hidden + k[None, :]
    # expert is int64: E * 2F * D passes 2^31 in large models.
    gate_tile = w_ptr + (expert * 2 * ffn + f)[None, :] * hidden + k[:, None]
    up_tile = w_ptr + (expert * 2 * ffn + ffn + f)[None, :] * hidden + k[:, None]
    gate = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for start in range(0, hidden, BLOCK_K):
        inside = start + k < hidden
        w_mask = inside[:, None] & (f < ffn)[None, :]
        x = tl.load(x_tile + start, mask=(rows < end)[:, None] & inside[None, :], other=0.0)
        if WEIGHTED:
            x = (x.to(tl.float32) * weight).to(x_ptr.dtype.element_ty)
        gate = dot(x, tl.load(gate_tile + start, mask=w_mask, other=0.0), gate, INTERPRETED)
        up = dot(x, tl.load(up_tile + start, mask=w_mask, other=0.0), up, INTERPRETED)
    if BIASED:
        gate += bias_row(bias_ptr + expert * 2 * ffn, f, ffn)
        up += bias_row(bias_ptr + expert * 2 * ffn + ffn, f, ffn)
    h = activate(gate, up, alpha, limit, CLAMPED)
    mask = (rows < end)[:, None] & (f < ffn)[None, :]
    tl.store(h_ptr + rows[:, None] * ffn + f[None, :], h.to(h_ptr.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def down_kernel(
    h_ptr: tl.tensor, w_ptr: tl.tensor, bias_ptr: tl.tensor, weight_ptr: tl.tensor, offsets_ptr: tl.tensor,
    y_ptr: tl.tensor,
    experts: tl.tensor, hidden: tl.tensor, ffn: tl.tensor,
    WEIGHTED: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:  # fmt: skip
    """y of one tile in float32: the rows of h times down, biased and weighted."""
    expert, first, end = find_tile(offsets_ptr, experts, BLOCK_M, BLOCK_E)
    if first >= end:
        return
    rows = first + tl.arange(0, BLOCK_M)
    d = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    h_tile = h_ptr + rows[:, None] * ffn + k[None, :]
    w_tile = w_ptr + (expert * hidden + d)[None, :] * ffn + k[:, None]
    y = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for start in range(0, ffn, BLOCK_K):
        inside = start + k < ffn
        h = tl.load(h_tile + start, mask=(rows < end)[:, None] & inside[None, :], other=0.0)
        w = tl.load(w_tile + start, mask=inside[:, None] & (d < hidden)[None, :], other=0.0)
        y = dot(h, w, y, INTERPRETED)
    if BIASED:
        y += bias_row(bias_ptr + expert * hidden, d, hidden)
    if WEIGHTED:
        y = y * tl.load(weight_ptr + rows, mask=rows < end, other=0.0)[:, None]
    mask = (rows < end)[:, None] & (d < hidden)[None, :]
    tl.store(y_ptr + rows[:, None] * hidden + d[None, :], y, mask=mask)
