"""The CPU path: one packed product per expert that has rows, grouping in numpy, one weighted sum at the end.

A torch call costs 2-20 us and a layer has tens of experts, so calls are counted here: grouping is a few numpy calls
(cheaper than torch's on small vectors), rows are gathered once, and the weighted sum in float32 is one embedding_bag.
Legend: T tokens, K experts per token, E experts, N rows (token-expert pairs), M rows of one expert, D hidden, F ffn.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kernels.cpu.linear import linear, padded, prepare_matrix
from kernels.formats.quantized import Matrix
from kernels.reference import activate, gate_sigmoid, gate_topk, weighted
from kernels.weights import PLAIN, ExpertForm, ExpertWeights, Matrices, bias_of, check_rows, check_weights, segments

# The reference's gates are few torch calls already, so the CPU path uses them.
__all__ = [
    "down",
    "expert_ffn",
    "expert_rows",
    "gate_sigmoid",
    "gate_topk",
    "gate_up",
    "group_by_expert",
    "prepare_weights",
    "sum_rows",
]

Ints = NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.float32)


def group_by_expert(expert_ids_N: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """As `reference.group_by_expert`: order_N and offsets_E1, both int64; ValueError for an id out of range."""
    order_N, counts = _group(expert_ids_N.numpy(), num_experts)
    return torch.from_numpy(order_N), torch.from_numpy(_offsets(counts))


def gate_up(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, weight_of_row_N: Tensor, offsets_E1: Tensor
) -> Tensor:
    """As `reference.gate_up`, with gate and up rounded to x's dtype before they are multiplied."""
    x_ND = x_TD.index_select(0, token_of_row_N)
    if weights.form.weight_inputs:
        x_ND = weighted(x_ND, weight_of_row_N)
    parts = [_hidden(x_ND[s:e], weights, i) for i, s, e in segments(offsets_E1.diff().tolist())]
    return torch.cat(parts) if parts else x_TD.new_empty(0, weights.ffn)


def down(h_NF: Tensor, weights: ExpertWeights, offsets_E1: Tensor, weight_of_row_N: Tensor) -> Tensor:
    """As `reference.down`, with the product rounded to h's dtype before it is weighted in float32."""
    parts = [_output(h_NF[s:e], weights, i) for i, s, e in segments(offsets_E1.diff().tolist())]
    y_ND = torch.cat(parts).float() if parts else h_NF.new_empty(0, weights.hidden, dtype=torch.float32)
    return y_ND if weights.form.weight_inputs else y_ND * weight_of_row_N[:, None]


def sum_rows(y_ND: Tensor, token_of_row_N: Tensor, num_tokens: int) -> Tensor:
    """As `reference.sum_rows`: float32, in row order, whatever the number of threads."""
    return _weighted_sum(y_ND.float(), token_of_row_N.numpy(), None, num_tokens)


def prepare_weights(
    gate_up: Matrices,
    down: Matrices,
    form: ExpertForm = PLAIN,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
) -> ExpertWeights:
    """Pack each expert's matrices for `linear`; packed ones are taken as they are, so a set can be regrouped cheaply.

    Takes E of [2F, D] and E of [D, F], stacked or one by one; quantized ones stay so. Keeps no dense matrix that it
    packed: let go of it too and memory is as before. Raises ValueError where the parts do not fit.
    """
    check_weights(ExpertWeights(gate_up, down, form, gate_up_bias, down_bias))
    return ExpertWeights(_packed(gate_up), _packed(down), form, gate_up_bias, down_bias)


def expert_ffn(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """As `reference.expert_ffn`, with activations between the products in x's dtype and the weighted sum in float32."""
    check_rows(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    if not token_of_row_N.shape[0]:
        return x_TD.new_zeros(x_TD.shape, dtype=torch.float32)
    order_N, counts = _group(expert_of_row_N.numpy(), weights.num_experts)
    token_N, weight_N = token_of_row_N.numpy()[order_N], weight_of_row_N.numpy()[order_N]
    y_ND = _outputs(x_TD, weights, token_N, weight_N, counts)
    return _weighted_sum(y_ND.float(), token_N, None if weights.form.weight_inputs else weight_N, x_TD.shape[0])


def expert_rows(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """As `reference.expert_rows`, rounded where `expert_ffn` rounds; a row's bits may depend on its expert's others."""
    check_rows(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N)
    if not token_of_row_N.shape[0]:
        return x_TD.new_empty(0, weights.hidden, dtype=torch.float32)
    order_N, counts = _group(expert_of_row_N.numpy(), weights.num_experts)
    token_N, weight_N = token_of_row_N.numpy()[order_N], weight_of_row_N.numpy()[order_N]
    y_ND = _outputs(x_TD, weights, token_N, weight_N, counts).float()
    if not weights.form.weight_inputs:
        y_ND = y_ND.mul_(torch.from_numpy(weight_N)[:, None])
    if (order_N[:-1] < order_N[1:]).all():  # nearly always: routers send rows sorted by expert
        return y_ND
    return torch.empty_like(y_ND).index_copy_(0, torch.from_numpy(order_N), y_ND)


def _outputs(
    x_TD: Tensor, weights: ExpertWeights, token_N: Ints, weight_N: NDArray[np.float32], counts: list[int]
) -> Tensor:
    """y_ND in x's dtype, without its weights: rows are sorted by expert, of which each has `counts` of them."""
    # Gathered once for all experts: each then reads a slice, without a call of its own.
    x_PD = _gather(x_TD, token_N, max(counts))
    if weights.form.weight_inputs:
        x_PD = weighted(x_PD, torch.from_numpy(_lengthened(weight_N, x_PD.shape[0])))
    return torch.cat([_expert(x_PD, s, e - s, weights, i) for i, s, e in segments(counts)])


def _expert(x_PD: Tensor, start: int, rows: int, weights: ExpertWeights, expert: int) -> Tensor:
    """One expert's output for its rows; rows behind them, up to a shared size, are computed too and dropped."""
    h_MF = _hidden(x_PD[start : start + padded(rows)], weights, expert)
    return _output(h_MF, weights, expert)[:rows]


def _hidden(x_MD: Tensor, weights: ExpertWeights, expert: int) -> Tensor:
    gate_up_M2F = linear(x_MD, weights.gate_up[expert], bias_of(expert, weights.gate_up_bias))
    gate_MF, up_MF = gate_up_M2F.chunk(2, dim=1)
    if not weights.form.clamped:
        return F.silu(gate_MF).mul_(up_MF)
    # In float32: in half precision each of this activation's seven operations would round.
    return activate(gate_MF.float(), up_MF.float(), weights.form).to(x_MD.dtype)


def _output(h_MF: Tensor, weights: ExpertWeights, expert: int) -> Tensor:
    return linear(h_MF, weights.down[expert], bias_of(expert, weights.down_bias))


def _packed(matrices: Matrices) -> tuple[Matrix, ...]:
    return tuple(prepare_matrix(w) for w in matrices)


def _gather(x_TD: Tensor, token_N: Ints, most_rows: int) -> Tensor:
    """x of each row, and behind the last one the rows that `padded` may ask for (token 0: any will do)."""
    return x_TD.index_select(0, torch.from_numpy(_lengthened(token_N, len(token_N) + most_rows // 8)))


def _lengthened(values_N: NDArray[Number], length: int) -> NDArray[Number]:
    """The values and zeros behind them."""
    values_P = np.zeros(length, values_N.dtype)
    values_P[: len(values_N)] = values_N
    return values_P


def _group(expert_ids_N: Ints, num_experts: int) -> tuple[Ints, list[int]]:
    """The stable order by expert (linear time where rows come sorted) and each expert's number of rows."""
    if len(expert_ids_N) and expert_ids_N.min() < 0:
        raise ValueError(f"expert ids must lie in 0..{num_experts - 1}")
    counts = np.bincount(expert_ids_N, minlength=num_experts).tolist()
    # bincount grows with the largest id, so its length checks the upper bound without another pass.
    if len(counts) != num_experts:
        raise ValueError(f"expert ids must lie in 0..{num_experts - 1}")
    return expert_ids_N.argsort(kind="stable"), counts


def _offsets(counts: list[int]) -> Ints:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _weighted_sum(y_ND: Tensor, token_N: Ints, weight_N: NDArray[np.float32] | None, num_tokens: int) -> Tensor:
    """Each token's rows times their weights, added in row order, as embedding_bag walks the rows of a bag."""
    if not len(token_N):
        return y_ND.new_zeros(num_tokens, y_ND.shape[1])
    row_N = token_N.argsort(kind="stable")  # rows of a token stay in order: the sum must not depend on the sort
    starts_T = _offsets(np.bincount(token_N, minlength=num_tokens).tolist())[:-1]
    weights = None if weight_N is None else torch.from_numpy(weight_N[row_N])
    rows, starts = torch.from_numpy(row_N), torch.from_numpy(starts_T)
    return F.embedding_bag(rows, y_ND, starts, mode="sum", per_sample_weights=weights)
