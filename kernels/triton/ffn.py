"""The grouped expert FFN on a GPU: two Triton products; gather, biases, activation, routing weight are inside them.

Rows come sorted by expert and are cut into tiles of one expert each. How many tiles there are is known on the device
only: the grid is an upper bound, and each program finds its expert from the offsets, so that the host never waits.
Legend: T tokens, E experts, N rows (token-expert pairs), M rows of a tile, D hidden, F ffn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from kernels.triton.dot import INTERPRETED
from kernels.triton.ffn_kernels import down_kernel, gate_up_kernel
from kernels.weights import ExpertWeights, Matrices


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
        gate_up_kernel[grid(tiles, rows, experts, ffn)](
            x_TD.contiguous(), w_E2FD, given(weights.gate_up_bias, w_E2FD), token_of_row_N.contiguous(),
            weight_of_row_N.contiguous(), offsets_E1, h_NF, experts, hidden, ffn, form.alpha, form.limit,
            CLAMPED=form.clamped, WEIGHTED=form.weight_inputs, BIASED=weights.gate_up_bias is not None,
            **constants(tiles, experts),
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
        down_kernel[grid(tiles, rows, experts, hidden)](
            h_NF.contiguous(), w_EDF, given(weights.down_bias, w_EDF), weight_of_row_N.contiguous(), offsets_E1, y_ND,
            experts, hidden, ffn,
            WEIGHTED=not weights.form.weight_inputs, BIASED=weights.down_bias is not None,
            **constants(tiles, experts),
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


def given(bias: Tensor | None, instead: Tensor) -> Tensor:
    """The bias as a kernel can read it, or another tensor, which it does not read, in its place."""
    return instead if bias is None else bias.contiguous()


def grid(tiles: Tiles, rows: int, experts: int, columns: int) -> tuple[int, int]:
    """Enough programs for any routing. Row tiles vary fastest: adjacent programs share a cached tile of weights."""
    return triton.cdiv(rows, tiles.rows) + min(experts, rows), triton.cdiv(columns, tiles.columns)


def constants(tiles: Tiles, experts: int) -> dict[str, int | bool]:
    """What every product's kernel is compiled for."""
    return {
        "BLOCK_M": tiles.rows,
        "BLOCK_C": tiles.columns,
        "BLOCK_K": tiles.depth,
        "BLOCK_E": triton.next_power_of_2(experts),  # tl.arange takes powers of two only
        "INTERPRETED": INTERPRETED,
        "num_warps": tiles.warps,
        "num_stages": 3,
    }
