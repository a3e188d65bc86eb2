"""A layer's experts by the native kernels: one call. T tokens, N rows, E experts, D hidden, F ffn, P panels."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.native.library import check, library
from kernels.native.panels import Panels, as_panels
from kernels.native.products import DTYPES, padded_bias
from kernels.native.structs import HALF, ExpertsCall, ExpertsStruct, MatrixStruct
from kernels.weights import PLAIN, ExpertForm, ExpertWeights, Matrices, check_rows, check_weights


@dataclass(frozen=True)
class NativeExperts(ExpertWeights):
    """Experts in panels. `struct` points into `kept` and the matrices."""

    struct: ExpertsStruct = field(default_factory=ExpertsStruct)
    kept: tuple[object, ...] = ()


def prepare_weights(
    gate_up: Matrices,
    down: Matrices,
    form: ExpertForm = PLAIN,
    gate_up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
) -> NativeExperts:
    """Copy each expert's matrices into panels; those that are in panels already are taken as they are.

    Raises:
        ValueError: see `kernels.weights.check_weights`.
    """
    check_weights(ExpertWeights(gate_up, down, form, gate_up_bias, down_bias))
    gate_ups = tuple(as_panels(w, gate_up=True) for w in gate_up)
    downs = tuple(as_panels(w) for w in down)
    structs = (_array(gate_ups), _array(downs))
    biases = (_in_halves(gate_up_bias), None if down_bias is None else padded_bias(down_bias))
    struct = ExpertsStruct(
        *structs,
        *(None if bias is None else bias.data_ptr() for bias in biases),
        len(gate_ups),
        gate_ups[0].inputs,
        downs[0].inputs,
        int(form.clamped),
        int(form.weight_inputs),
        form.alpha,
        form.limit,
    )
    return NativeExperts(gate_ups, downs, form, gate_up_bias, down_bias, struct, (*structs, *biases))


def expert_ffn(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """As `reference.expert_ffn`, with the hidden vector rounded once to x's dtype.

    A token's bits depend on its own rows alone: not on other tokens, on the order of the experts or on the threads.
    """
    return _call(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N, by_row=False)


def expert_rows(
    x_TD: Tensor, weights: ExpertWeights, token_of_row_N: Tensor, expert_of_row_N: Tensor, weight_of_row_N: Tensor
) -> Tensor:
    """y_ND float32: each row's weighted output, in the order of the rows."""
    return _call(x_TD, weights, token_of_row_N, expert_of_row_N, weight_of_row_N, by_row=True)


def _call(
    x_TD: Tensor, weights: ExpertWeights, token_N: Tensor, expert_N: Tensor, weight_N: Tensor, by_row: bool
) -> Tensor:
    check_rows(x_TD, weights, token_N, expert_N, weight_N)
    assert isinstance(weights, NativeExperts), "weights pass prepare_weights first"
    if x_TD.stride(1) != 1:
        x_TD = x_TD.contiguous()
    rows = token_N.shape[0]
    y_YD = x_TD.new_empty(rows if by_row else x_TD.shape[0], weights.hidden, dtype=torch.float32)
    token_N, expert_N, weight_N = token_N.contiguous(), expert_N.contiguous(), weight_N.contiguous()
    call = ExpertsCall(
        ctypes.pointer(weights.struct),
        x_TD.data_ptr(),
        token_N.data_ptr(),
        expert_N.data_ptr(),
        weight_N.data_ptr(),
        y_YD.data_ptr(),
        x_TD.shape[0],
        rows,
        x_TD.stride(0),
        DTYPES[x_TD.dtype],
        torch.get_num_threads(),
        int(by_row),
    )
    check(library().experts(call))
    return y_YD


def _array(matrices: tuple[Panels, ...]) -> ctypes.Array[MatrixStruct]:
    return (MatrixStruct * len(matrices))(*(w.struct for w in matrices))


def _in_halves(bias_EO: Tensor | None) -> Tensor | None:
    """The same in the order of a gate-up matrix's panels: 16 of the gate, then 16 of the up."""
    if bias_EO is None:
        return None
    halves = [F.pad(half.float(), (0, -half.shape[1] % HALF)) for half in bias_EO.chunk(2, dim=1)]
    stacked_E2PH = torch.stack([half.view(len(half), -1, HALF) for half in halves], dim=2)
    return stacked_E2PH.flatten(1).contiguous()
