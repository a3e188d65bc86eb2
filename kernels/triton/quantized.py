"""The Triton products for layers that `packed_table` makes no table of: mixed forms, or one that no kernel reads.

One expert at a time is decoded by torch and multiplied. That needs each expert's number of rows on the host: each
product waits for the device, and a CUDA graph cannot hold it.
Legend: T tokens, E experts, N rows (token-expert pairs) sorted by expert, D hidden, F ffn.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kernels.formats.quantized import as_dense
from kernels.triton import ffn as triton_ffn
from kernels.weights import ExpertWeights, segments


def gate_up(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, weight_of_row_N: Tensor, counts: list[int]
) -> Tensor:
    """As `reference.gate_up`, with each expert's number of rows in place of offsets."""
    h_NF = x_TD.new_empty(len(token_of_row_N), weights.ffn)
    for expert, start, end in segments(counts):
        one = replace(_alone(weights, expert), gate_up=as_dense(weights.gate_up[expert])[None])
        token, weight = token_of_row_N[start:end], weight_of_row_N[start:end]
        h_NF[start:end] = triton_ffn.gate_up(x_TD, one, token, weight, _offsets(end - start, x_TD.device))
    return h_NF


def down(h_NF: Tensor, weights: ExpertWeights, counts: list[int], weight_of_row_N: Tensor) -> Tensor:
    """As `reference.down`, with each expert's number of rows in place of offsets."""
    y_ND = h_NF.new_empty(len(h_NF), weights.hidden, dtype=torch.float32)
    for expert, start, end in segments(counts):
        one = replace(_alone(weights, expert), down=as_dense(weights.down[expert])[None])
        offsets = _offsets(end - start, h_NF.device)
        y_ND[start:end] = triton_ffn.down(h_NF[start:end], one, offsets, weight_of_row_N[start:end])
    return y_ND


def _alone(weights: ExpertWeights, expert: int) -> ExpertWeights:
    """One expert as a layer of its own; its matrices as they are."""
    mine = slice(expert, expert + 1)
    gate_up_bias = None if weights.gate_up_bias is None else weights.gate_up_bias[mine]
    down_bias = None if weights.down_bias is None else weights.down_bias[mine]
    return ExpertWeights(weights.gate_up[mine], weights.down[mine], weights.form, gate_up_bias, down_bias)


def _offsets(rows: int, device: torch.device) -> Tensor:
    """[0, rows], made on the device: a copy from the host would wait for it."""
    return torch.arange(0, 2 * rows, rows, device=device)
