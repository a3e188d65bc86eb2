"""Every op in plain torch: slow, obvious, right for any shape. The oracle of the other backends.

Legend: T tokens, K experts per token, E experts, N rows (token-expert pairs), D hidden, F ffn.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.weights import ExpertWeights, Matrices, check_rows, check_weights


def gate_topk(logits_TE: Tensor, top_k: int, normalize: bool) -> tuple[Tensor, Tensor]:
    """Softmax over all experts in float32, then the `top_k` largest, largest first.

    Returns weights_TK float32 and expert_ids_TK int64. With `normalize` a token's weights are divided by their sum.
    Ties fall as `torch.topk` lets them. The rule of Mixtral and Qwen-MoE. Raises ValueError unless 1 <= top_k <= E.
    """
    check_gate(logits_TE, top_k)
    weights_TK, expert_ids_TK = logits_TE.softmax(dim=-1, dtype=torch.float32).topk(top_k, dim=-1)
    if normalize:
        weights_TK = weights_TK / weights_TK.sum(dim=-1, keepdim=True)
    return weights_TK, expert_ids_TK


def check_gate(logits_TE: Tensor, top_k: int) -> None:
    """Raise ValueError unless logits are a matrix and 1 <= top_k <= E."""
    if logits_TE.ndim != 2 or not 1 <= top_k <= logits_TE.shape[1]:
        raise ValueError(f"top_k {top_k} does not fit logits of shape {tuple(logits_TE.shape)}")


def group_by_expert(expert_ids_N: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """The stable permutation that sorts rows by expert, and where each expert's rows start.

    Returns order_N int64 (sorted row i is row order_N[i]) and offsets_E1 int64 (expert e owns the sorted rows from
    offsets[e] up to offsets[e+1]). Raises ValueError for an id outside 0..num_experts-1.
    """
    if expert_ids_N.numel() and not 0 <= int(expert_ids_N.min()) <= int(expert_ids_N.max()) < num_experts:
        raise ValueError(f"expert ids must lie in 0..{num_experts - 1}")
    order_N = torch.argsort(expert_ids_N, stable=True)
    counts_E = torch.bincount(expert_ids_N, minlength=num_experts)
    return order_N, F.pad(counts_E.cumsum(0), (1, 0))


def gate_up_silu(x_TD: Tensor, w_gate_up: Matrices, token_of_row_N: Tensor, offsets_E1: Tensor) -> Tensor:
    """h_NF = silu(x W_gate^T) * (x W_up^T) for rows sorted by expert, in float32, rounded once to x's dtype.

    `w_gate_up` is E matrices [2F, D], gate rows first; row n reads token token_of_row_N[n].
    """
    x_ND = x_TD[token_of_row_N].float()
    h_NF = x_TD.new_empty(len(x_ND), w_gate_up[0].shape[0] // 2)
    for expert, start, end in _segments(offsets_E1):
        gate, up = (x_ND[start:end] @ w_gate_up[expert].float().T).chunk(2, dim=1)
        h_NF[start:end] = F.silu(gate) * up
    return h_NF


def grouped_down(h_NF: Tensor, w_down: Matrices, offsets_E1: Tensor, weight_of_row_N: Tensor) -> Tensor:
    """y_ND float32 = (h W_down^T) * weight for rows sorted by expert; `w_down` is E matrices [D, F]."""
    y_ND = h_NF.new_empty(len(h_NF), w_down[0].shape[0], dtype=torch.float32)
    for expert, start, end in _segments(offsets_E1):
        y_ND[start:end] = h_NF[start:end].float() @ w_down[expert].float().T
    return y_ND * weight_of_row_N[:, None]


def sum_rows(y_ND: Tensor, token_of_row_N: Tensor, num_tokens: int) -> Tensor:
    """y_TD float32: the sum of each token's rows, added one by one in row order; zeros for a token without rows."""
    y_TD = y_ND.new_zeros(num_tokens, y_ND.shape[1], dtype=torch.float32)
    for row, token in enumerate(token_of_row_N.tolist()):
        y_TD[token] += y_ND[row]
    return y_TD


def prepare_weights(gate_up: Matrices, down: Matrices) -> ExpertWeights:
    """The matrices as they are: E of [2F, D] and E of [D, F], stacked or one by one. ValueError where unfit."""
    return check_weights(gate_up, down)


def expert_ffn(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """y_TD float32: for each token the weighted sum over its rows of that row's expert, zeros without any row.

    x_TD has the dtype of the weights; token_of_row_N and expert_of_row_N are int64, weight_of_row_N float32; rows may
    come in any order. A token's rows are added by ascending expert. Raises ValueError for arguments that do not fit and
    for expert ids out of range, IndexError for tokens out of range.
    """
    check_rows(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    order_N, offsets_E1 = group_by_expert(expert_of_row_N, weights.num_experts)
    token_N = token_of_row_N[order_N]
    h_NF = gate_up_silu(x_TD, weights.gate_up, token_N, offsets_E1)
    y_ND = grouped_down(h_NF, weights.down, offsets_E1, weight_of_row_N[order_N])
    return sum_rows(y_ND, token_N, len(x_TD))


def pack(w_OI: Tensor) -> Tensor:
    """The matrix as it is."""
    return w_OI


def linear(x_MI: Tensor, w_OI: Tensor) -> Tensor:
    """y_MO = x W^T in x's dtype."""
    return F.linear(x_MI, w_OI)


def _segments(offsets_E1: Tensor) -> list[tuple[int, int, int]]:
    """(expert, start, end) of each expert that has rows."""
    bounds = offsets_E1.tolist()
    return [(e, start, end) for e, (start, end) in enumerate(pairwise(bounds)) if end > start]
