"""The Triton backend: its ops under the names that every backend has, and the composed FFN. Importing it needs Triton.

All tensors lie on one CUDA device, which must be the current one (or on the CPU, in Triton's interpreter).
Legend: T tokens, E experts, N rows (token-expert pairs), D hidden, F ffn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.reference import linear, pack
from kernels.triton_ffn import gate_up_silu, grouped_down, stacked
from kernels.triton_gate import gate_topk
from kernels.triton_permute import group_by_expert, sum_rows
from kernels.weights import ExpertWeights, Matrices, check_rows, check_weights

__all__ = [
    "expert_ffn",
    "gate_topk",
    "gate_up_silu",
    "group_by_expert",
    "grouped_down",
    "linear",
    "pack",
    "prepare_weights",
    "sum_rows",
]


def prepare_weights(gate_up: Matrices, down: Matrices) -> ExpertWeights:
    """Stack E of [2F, D] and E of [D, F] into one tensor each (or keep them so). ValueError where unfit."""
    check_weights(gate_up, down)
    return ExpertWeights(stacked(gate_up), stacked(down))


def expert_ffn(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """As `reference.expert_ffn`, with float32 sums inside the products; ids out of range are not noticed.

    Only launches: no value comes back to the host, so a CUDA graph can hold it.
    """
    check_rows(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    if not len(token_of_row_N):
        return torch.zeros(x_TD.shape, dtype=torch.float32, device=x_TD.device)
    order_N, offsets_E1 = group_by_expert(expert_of_row_N, weights.num_experts)
    token_N = token_of_row_N.index_select(0, order_N)
    h_NF = gate_up_silu(x_TD, weights.gate_up, token_N, offsets_E1)
    y_ND = grouped_down(h_NF, weights.down, offsets_E1, weight_of_row_N.index_select(0, order_N))
    return sum_rows(y_ND, token_N, len(x_TD))
