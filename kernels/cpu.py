"""The CPU path: one packed product per expert that has rows, grouping in numpy, one weighted sum at the end.

A torch call costs 2-20 us and a layer has tens of experts, so calls are counted here: grouping is a few numpy calls
(cheaper than torch's on small vectors), rows are gathered once, and the weighted sum in float32 is one embedding_bag.
Legend: T tokens, K experts per token, E experts, N rows (token-expert pairs), M rows of one expert, D hidden, F ffn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kernels.cpu_linear import linear, pack, padded
from kernels.reference import gate_topk
from kernels.weights import ExpertWeights, Matrices, check_rows, check_weights

# gate_topk is two torch calls: the reference serves.
__all__ = [
    "expert_ffn",
    "gate_topk",
    "gate_up_silu",
    "group_by_expert",
    "grouped_down",
    "prepare_weights",
    "sum_rows",
]

Ints = NDArray[np.int64]


def group_by_expert(expert_ids_N: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """As `reference.group_by_expert`: order_N and offsets_E1, both int64; ValueError for an id out of range."""
    order_N, counts = _group(expert_ids_N.numpy(), num_experts)
    return torch.from_numpy(order_N), torch.from_numpy(_offsets(counts))


def gate_up_silu(x_TD: Tensor, w_gate_up: Matrices, token_of_row_N: Tensor, offsets_E1: Tensor) -> Tensor:
    """As `reference.gate_up_silu`, with gate and up rounded to x's dtype before they are multiplied."""
    x_ND = x_TD.index_select(0, token_of_row_N)
    parts = [_silu_mul(linear(x_ND[s:e], w_gate_up[i])) for i, s, e in _segments(offsets_E1.diff().tolist())]
    return torch.cat(parts) if parts else x_TD.new_empty(0, w_gate_up[0].shape[0] // 2)


def grouped_down(h_NF: Tensor, w_down: Matrices, offsets_E1: Tensor, weight_of_row_N: Tensor) -> Tensor:
    """As `reference.grouped_down`, with the product rounded to h's dtype before it is weighted in float32."""
    parts = [linear(h_NF[s:e], w_down[i]) for i, s, e in _segments(offsets_E1.diff().tolist())]
    y_ND = torch.cat(parts) if parts else h_NF.new_empty(0, w_down[0].shape[0])
    return y_ND.float() * weight_of_row_N[:, None]


def sum_rows(y_ND: Tensor, token_of_row_N: Tensor, num_tokens: int) -> Tensor:
    """As `reference.sum_rows`: float32, in row order, whatever the number of threads."""
    return _weighted_sum(y_ND.float(), token_of_row_N.numpy(), None, num_tokens)


def prepare_weights(gate_up: Matrices, down: Matrices) -> ExpertWeights:
    """Pack each expert's matrices for `linear`; packed ones are taken as they are, so a set can be regrouped cheaply.

    Takes E of [2F, D] and E of [D, F], stacked or one by one. Keeps no dense matrix that it packed: let go of it
    too and memory is as before. Raises ValueError where the matrices do not fit.
    """
    check_weights(gate_up, down)
    return ExpertWeights(tuple(pack(w) for w in gate_up), tuple(pack(w) for w in down))


def expert_ffn(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """As `reference.expert_ffn`, with activations between the products in x's dtype and the weighted sum in float32."""
    check_rows(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    if not len(token_of_row_N):
        return x_TD.new_zeros(x_TD.shape, dtype=torch.float32)
    order_N, counts = _group(expert_of_row_N.numpy(), weights.num_experts)
    token_N = token_of_row_N.numpy()[order_N]
    x_PD = _gather(x_TD, token_N, max(counts))
    y_ND = torch.cat([_expert(x_PD, s, e - s, weights, i) for i, s, e in _segments(counts)])
    return _weighted_sum(y_ND.float(), token_N, weight_of_row_N.numpy()[order_N], len(x_TD))


def _expert(x_PD: Tensor, start: int, rows: int, weights: ExpertWeights, expert: int) -> Tensor:
    """One expert's output for its rows; rows behind them, up to a shared size, are computed too and dropped."""
    x_MD = x_PD[start : start + padded(rows)]
    h_MF = _silu_mul(linear(x_MD, weights.gate_up[expert]))
    return linear(h_MF, weights.down[expert])[:rows]


def _silu_mul(gate_up_M2F: Tensor) -> Tensor:
    gate_MF, up_MF = gate_up_M2F.chunk(2, dim=1)
    return F.silu(gate_MF).mul_(up_MF)


def _gather(x_TD: Tensor, token_N: Ints, most_rows: int) -> Tensor:
    """x of each row, and behind the last one the rows that `padded` may ask for (token 0: any will do)."""
    token_P = np.zeros(len(token_N) + most_rows // 8, np.int64)
    token_P[: len(token_N)] = token_N
    return x_TD.index_select(0, torch.from_numpy(token_P))


def _group(expert_ids_N: Ints, num_experts: int) -> tuple[Ints, list[int]]:
    """The stable order by expert (linear time where rows come sorted) and each expert's number of rows."""
    if len(expert_ids_N) and expert_ids_N.min() < 0:
        raise ValueError(f"expert ids must lie in 0..{num_experts - 1}")
    counts = np.bincount(expert_ids_N, minlength=num_experts).tolist()
    if len(counts) != num_experts:
        raise ValueError(f"expert ids must lie in 0..{num_experts - 1}")
    return expert_ids_N.argsort(kind="stable"), counts


def _segments(counts: list[int]) -> Iterator[tuple[int, int, int]]:
    """(expert, start, end) of each expert that has rows."""
    start = 0
    for expert, rows in enumerate(counts):
        if rows:
            yield expert, start, start + rows
            start += rows


def _offsets(counts: list[int]) -> Ints:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _weighted_sum(y_ND: Tensor, token_N: Ints, weight_N: NDArray[np.float32] | None, num_tokens: int) -> Tensor:
    """Each token's rows times their weights, added in row order, as embedding_bag walks the rows of a bag."""
    if not len(token_N):
        return y_ND.new_zeros(num_tokens, y_ND.shape[1])
    row_N = token_N.argsort(kind="stable")
    starts_T = _offsets(np.bincount(token_N, minlength=num_tokens).tolist())[:-1]
    weights = None if weight_N is None else torch.from_numpy(weight_N[row_N])
    rows, starts = torch.from_numpy(row_N), torch.from_numpy(starts_T)
    return F.embedding_bag(rows, y_ND, starts, mode="sum", per_sample_weights=weights)
