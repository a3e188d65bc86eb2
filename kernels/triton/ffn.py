"""The grouped expert FFN on a GPU: two Triton products; gather, biases, activation, routing weight are inside them.

Rows come sorted by expert and are cut into tiles of one expert each. How many tiles there are is known on the device
only: the grid is an upper bound, and each program finds its expert from the offsets, so that the host never waits.
Legend: T tokens, E experts, N rows (token-expert pairs), M rows of a tile, D hidden, F ffn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.weights import ExpertWeights, Matrices

# The interpreter's tl.dot on bfloat16 tiles is silently wrong: there, and only there, tiles are widened first.
INTERPRETED = bool(triton.knobs.runtime.interpret)


@dataclass(frozen=True)
class Tiles:
    """Block sizes of one product: rows, output columns, the summed dimension, and the warps that share a tile."""

    rows: int
    columns: int
    depth: int
    warps: int


def choose_tiles(rows: int, num_experts: int, dtype: torch.dtype) -> Tiles:
    """Tiles about as high as an expert's mean share of rows, from 16 (what tl.dot takes at least) to 128."""
    height = min(128, max(16, triton.next_power_of_2(max(1, rows // num_experts))))
    depth = 32 if dtype == torch.float32 else 64
    return Tiles(rows=height, columns=64, depth=depth, warps=8 if height == 128 else 4)


def gate_up(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, weight_of_row_N: Tensor, offsets_E1: Tensor
) -> Tensor:
    """As `reference.gate_up`, for dense matrices: h_NF in x's dtype; the gather of x is part of the product."""
    w_E2FD, form = stacked(weights.gate_up), weights.form
    experts, two_ffn, hidden = w_E2FD.shape
    rows, ffn = len(token_of_row_N), two_ffn // 2
    h_NF = x_TD.new_empty(rows, ffn)
    if h_NF.numel():
        tiles = choose_tiles(rows, experts, x_TD.dtype)
        _gate_up_kernel[_grid(tiles, rows, experts, ffn)](
            x_TD.contiguous(), w_E2FD, _given(weights.gate_up_bias, w_E2FD), token_of_row_N.contiguous(),
            weight_of_row_N.contiguous(), offsets_E1, h_NF, experts, hidden, ffn, form.alpha, form.limit,
            CLAMPED=form.clamped, WEIGHTED=form.weight_inputs, BIASED=weights.gate_up_bias is not None,
            **_constants(tiles, experts),
        )  # fmt: skip
    return h_NF


def down(h_NF: Tensor, weights: ExpertWeights, offsets_E1: Tensor, weight_of_row_N: Tensor) -> Tensor:
    """As `reference.down`, for dense matrices: y_ND float32, weighted before it leaves the registers."""
    w_EDF = stacked(weights.down)
    experts, hidden, ffn = w_EDF.shape
    rows = len(h_NF)
    y_ND = h_NF.new_empty(rows, hidden, dtype=torch.float32)
    if y_ND.numel():
        tiles = choose_tiles(rows, experts, h_NF.dtype)
        _down_kernel[_grid(tiles, rows, experts, hidden)](
            h_NF.contiguous(), w_EDF, _given(weights.down_bias, w_EDF), weight_of_row_N.contiguous(), offsets_E1, y_ND,
            experts, hidden, ffn,
            WEIGHTED=not weights.form.weight_inputs, BIASED=weights.down_bias is not None,
            **_constants(tiles, experts),
        )  # fmt: skip
    return y_ND


def stacked(matrices: Matrices) -> Tensor:
    """E dense matrices as one contiguous tensor; copies only what is not one yet. ValueError for quantized ones."""
    if isinstance(matrices, Tensor):
        return matrices.contiguous()
    dense = [w for w in matrices if isinstance(w, Tensor)]
    if len(dense) < len(matrices):
        raise ValueError("the Triton products take dense matrices: take `triton_ops`, which decodes quantized ones")
    return torch.stack(dense)


def _given(bias: Tensor | None, instead: Tensor) -> Tensor:
    """The bias as a kernel can read it, or another tensor, which it does not read, in its place."""
    return instead if bias is None else bias.contiguous()


def _grid(tiles: Tiles, rows: int, experts: int, columns: int) -> tuple[int, int]:
    """Enough programs for any routing. Row tiles vary fastest: adjacent programs share a cached tile of weights."""
    return triton.cdiv(rows, tiles.rows) + min(experts, rows), triton.cdiv(columns, tiles.columns)


def _constants(tiles: Tiles, experts: int) -> dict[str, int | bool]:
    return {
        "BLOCK_M": tiles.rows,
        "BLOCK_C": tiles.columns,
        "BLOCK_K": tiles.depth,
        "BLOCK_E": triton.next_power_of_2(experts),  # tl.arange takes powers of two only
        "INTERPRETED": INTERPRETED,
        "num_warps": tiles.warps,
        "num_stages": 3,
    }


@triton.jit  # type: ignore[untyped-decorator]
def _find_tile(offsets_ptr: tl.tensor, experts: tl.tensor, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr) -> tl.tensor:
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
def _dot(a: tl.tensor, b: tl.tensor, total: tl.tensor, INTERPRETED: tl.constexpr) -> tl.tensor:
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    # Not tf32, the default: float32 weights would lose 13 bits of their mantissa.
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit  # type: ignore[untyped-decorator]
def _bias(bias_ptr: tl.tensor, columns: tl.tensor, size: tl.tensor) -> tl.tensor:
    """One expert's bias of these columns, in float32, for every row."""
    return tl.load(bias_ptr + columns, mask=columns < size, other=0.0).to(tl.float32)[None, :]


@triton.jit  # type: ignore[untyped-decorator]
def _activate(gate: tl.tensor, up: tl.tensor, alpha: tl.tensor, limit: tl.tensor, CLAMPED: tl.constexpr) -> tl.tensor:
    if CLAMPED:
        # Not tl.minimum: a NaN must stay one.
        gate = tl.where(gate > limit, limit, gate)
        up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
        h = (up + 1) * gate * tl.sigmoid(alpha * gate)
    else:
        h = gate * tl.sigmoid(gate) * up
    return h


@triton.jit  # type: ignore[untyped-decorator]
def _gate_up_kernel(
    x_ptr: tl.tensor, w_ptr: tl.tensor, bias_ptr: tl.tensor, token_ptr: tl.tensor, weight_ptr: tl.tensor,
    offsets_ptr: tl.tensor, h_ptr: tl.tensor,
    experts: tl.tensor, hidden: tl.tensor, ffn: tl.tensor, alpha: tl.tensor, limit: tl.tensor,
    CLAMPED: tl.constexpr, WEIGHTED: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:  # fmt: skip
    expert, first, end = _find_tile(offsets_ptr, experts, BLOCK_M, BLOCK_E)
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
        gate = _dot(x, tl.load(gate_tile + start, mask=w_mask, other=0.0), gate, INTERPRETED)
        up = _dot(x, tl.load(up_tile + start, mask=w_mask, other=0.0), up, INTERPRETED)
    if BIASED:
        gate += _bias(bias_ptr + expert * 2 * ffn, f, ffn)
        up += _bias(bias_ptr + expert * 2 * ffn + ffn, f, ffn)
    h = _activate(gate, up, alpha, limit, CLAMPED)
    mask = (rows < end)[:, None] & (f < ffn)[None, :]
    tl.store(h_ptr + rows[:, None] * ffn + f[None, :], h.to(h_ptr.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _down_kernel(
    h_ptr: tl.tensor, w_ptr: tl.tensor, bias_ptr: tl.tensor, weight_ptr: tl.tensor, offsets_ptr: tl.tensor,
    y_ptr: tl.tensor,
    experts: tl.tensor, hidden: tl.tensor, ffn: tl.tensor,
    WEIGHTED: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> None:  # fmt: skip
    expert, first, end = _find_tile(offsets_ptr, experts, BLOCK_M, BLOCK_E)
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
        y = _dot(h, w, y, INTERPRETED)
    if BIASED:
        y += _bias(bias_ptr + expert * hidden, d, hidden)
    if WEIGHTED:
        y = y * tl.load(weight_ptr + rows, mask=rows < end, other=0.0)[:, None]
    mask = (rows < end)[:, None] & (d < hidden)[None, :]
    tl.store(y_ptr + rows[:, None] * hidden + d[None, :], y, mask=mask)
