"""The Triton backend: its ops under the names that every backend has, and the composed FFN. Importing it needs Triton.

All tensors lie on one CUDA device, which must be the current one (or on the CPU, in Triton's interpreter).
Legend: T tokens, E experts, N rows (token-expert pairs), D hidden, F ffn.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kernels.triton import ffn as triton_ffn
from kernels.triton import packed as triton_packed
from kernels.triton import quantized as triton_quantized
from kernels.triton.gate import gate_sigmoid, gate_topk
from kernels.triton.packed import PackedWeights, linear, prepare_matrix
from kernels.triton.permute import group_by_expert, sum_rows
from kernels.weights import PLAIN, ExpertForm, ExpertWeights, Matrices, check_rows, check_weights

__all__ = [
    "down",
    "expert_ffn",
    "expert_rows",
    "gate_sigmoid",
    "gate_topk",
    "gate_up",
    "group_by_expert",
    "linear",
    "prepare_matrix",
    "prepare_weights",
    "sum_rows",
]


def prepare_weights(
    gate_up: Matrices,
    down: Matrices,
    form: ExpertForm = PLAIN,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
) -> ExpertWeights:
    """Stack E of [2F, D] and E of [D, F] into one tensor each (or keep them so). ValueError where the parts do not fit.

    Quantized ones stay as they are; what the kernels need to find them is noted beside them.
    """
    weights = check_weights(ExpertWeights(gate_up, down, form, gate_up_bias, down_bias))
    weights = replace(weights, gate_up=_stacked(gate_up), down=_stacked(down))
    return PackedWeights.of(weights) if weights.quantized else weights


def gate_up(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, weight_of_row_N: Tensor, offsets_E1: Tensor
) -> Tensor:
    """As `reference.gate_up`: h_NF in x's dtype. Waits for the device only where `triton_quantized` must be taken."""
    rows = token_of_row_N, weight_of_row_N
    if isinstance(weights, PackedWeights) and weights.gate_up_table is not None:
        return triton_packed.gate_up(x_TD, weights, weights.gate_up_table, *rows, offsets_E1)
    if isinstance(weights.gate_up, Tensor):
        return triton_ffn.gate_up(x_TD, weights, *rows, offsets_E1)
    return triton_quantized.gate_up(x_TD, weights, *rows, offsets_E1.diff().tolist())


def down(h_NF: Tensor, weights: ExpertWeights, offsets_E1: Tensor, weight_of_row_N: Tensor) -> Tensor:
    """As `reference.down`: y_ND float32. Waits for the device only where `triton_quantized` must be taken."""
    if isinstance(weights, PackedWeights) and weights.down_table is not None:
        return triton_packed.down(h_NF, weights, weights.down_table, offsets_E1, weight_of_row_N)
    if isinstance(weights.down, Tensor):
        return triton_ffn.down(h_NF, weights, offsets_E1, weight_of_row_N)
    return triton_quantized.down(h_NF, weights, offsets_E1.diff().tolist(), weight_of_row_N)


def expert_ffn(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """As `reference.expert_ffn`, with float32 sums inside the products; ids out of range are not noticed.

    It only launches: no value comes back to the host, so a CUDA graph can hold it. Not so where matrices of one layer
    are in several forms, or in one that no kernel reads: see `triton_quantized`.
    """
    check_rows(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    if not len(token_of_row_N):
        return torch.zeros(x_TD.shape, dtype=torch.float32, device=x_TD.device)
    y_ND, order_N = _outputs(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    return sum_rows(y_ND, token_of_row_N.index_select(0, order_N), len(x_TD))


def expert_rows(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """As `reference.expert_rows`; launches and waits as `expert_ffn`, and like it does not notice ids out of range."""
    check_rows(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    if not len(token_of_row_N):
        return torch.empty(0, weights.hidden, dtype=torch.float32, device=x_TD.device)
    y_ND, order_N = _outputs(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    return torch.empty_like(y_ND).index_copy_(0, order_N, y_ND)


def _outputs(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted rows sorted by expert, float32, and order_N: sorted row i is row order_N[i]."""
    order_N, offsets_E1 = group_by_expert(expert_of_row_N, weights.num_experts)
    token_N = token_of_row_N.index_select(0, order_N)
    weight_N = weight_of_row_N.index_select(0, order_N)
    h_NF = gate_up(x_TD, weights, token_N, weight_N, offsets_E1)
    return down(h_NF, weights, offsets_E1, weight_N), order_N


def _stacked(matrices: Matrices) -> Matrices:
    """Dense matrices as one tensor; as they are where any is quantized."""
    dense = isinstance(matrices, Tensor) or all(isinstance(w, Tensor) for w in matrices)
    return triton_ffn.stacked(matrices) if dense else matrices
