"""Norms and activations by the native kernels: torch's formulas and roundings, one call each.

A row's bits depend on the row alone. T rows, D or F elements of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.native.library import check, library
from kernels.native.products import DTYPES
from kernels.native.structs import GatedCall, NormCall, SigmoidCall, TurnCall
from kernels.reference import SigmoidGate, check_sigmoid_gate, choose_by_scores


def rms_norm(x_TD: Tensor, weight_D: Tensor | None, eps: float, round_last: bool = False) -> Tensor:
    """As `elements.rms_norm`.

    Raises:
        ValueError: x is no matrix of floats, or the weight does not fit it.
    """
    x_TD = _rows(x_TD)
    rows, size = x_TD.shape
    if weight_D is not None and (weight_D.shape != (size,) or weight_D.dtype != x_TD.dtype or weight_D.stride(0) != 1):
        raise ValueError(f"weight {tuple(weight_D.shape)} {weight_D.dtype} does not fit rows of {size} {x_TD.dtype}")
    y_TD = x_TD.new_empty(rows, size)
    call = NormCall(
        x_TD.data_ptr(),
        None if weight_D is None else weight_D.data_ptr(),
        y_TD.data_ptr(),
        rows,
        size,
        x_TD.stride(0),
        eps,
        DTYPES[x_TD.dtype],
        int(round_last),
        torch.get_num_threads(),
    )
    check(library().norm(call))
    return y_TD


def silu_mul(x_TF2: Tensor) -> Tensor:
    """As `elements.silu_mul`."""
    x_TF2 = _rows(x_TF2)
    y_TF = x_TF2.new_empty(len(x_TF2), x_TF2.shape[1] // 2)
    call = GatedCall(
        x_TF2.data_ptr(),
        y_TF.data_ptr(),
        *y_TF.shape,
        x_TF2.stride(0),
        DTYPES[x_TF2.dtype],
        torch.get_num_threads(),
    )
    check(library().gated(call))
    return y_TF


def turned_heads(
    x_TNC: Tensor, weight_NC: Tensor | None, eps: float, cos_T1C: Tensor, sin_T1C: Tensor, interleaved: bool
) -> Tensor:
    """As `elements.turned_heads`.

    Raises:
        ValueError: tensors that do not fit each other, or heads of an odd size.
    """
    rows, heads, size = x_TNC.shape
    x_TNC = x_TNC if x_TNC.stride(2) == 1 else x_TNC.contiguous()
    angles = (cos_T1C.contiguous(), sin_T1C.contiguous())
    angle_dtype = cos_T1C.dtype
    if any(t.shape != (rows, 1, size) or t.dtype != angle_dtype for t in angles) or size % 2:
        raise ValueError(f"x {tuple(x_TNC.shape)} and angles {tuple(cos_T1C.shape)} {angle_dtype} do not fit")
    if x_TNC.dtype not in DTYPES or angle_dtype not in (x_TNC.dtype, torch.float32):
        raise ValueError(f"need angles in float32 or x's dtype, got {angle_dtype} for {x_TNC.dtype}")
    if weight_NC is not None and (weight_NC.shape != (heads, size) or weight_NC.dtype != x_TNC.dtype):
        raise ValueError(f"weight {tuple(weight_NC.shape)} {weight_NC.dtype} does not fit {heads} heads of {size}")
    weight = None if weight_NC is None else weight_NC.contiguous()
    y_TNC = x_TNC.new_empty(rows, heads, size)
    call = TurnCall(
        x_TNC.data_ptr(),
        None if weight is None else weight.data_ptr(),
        *(table.data_ptr() for table in angles),
        y_TNC.data_ptr(),
        rows,
        heads,
        size,
        *x_TNC.stride()[:2],
        eps,
        DTYPES[x_TNC.dtype],
        DTYPES[angle_dtype],
        int(interleaved),
        torch.get_num_threads(),
    )
    check(library().turn(call))
    return y_TNC


def sigmoid(x: Tensor) -> Tensor:
    """As `torch.sigmoid`."""
    x = x.contiguous()
    y = torch.empty_like(x)
    check(library().sigmoid(SigmoidCall(x.data_ptr(), y.data_ptr(), x.numel(), DTYPES[x.dtype])))
    return y


def _rows(x_TD: Tensor) -> Tensor:
    """A matrix whose rows have no gaps."""
    if x_TD.ndim != 2 or x_TD.dtype not in DTYPES:
        raise ValueError(f"need rows in bfloat16, float16 or float32, got {x_TD.dtype} {tuple(x_TD.shape)}")
    return x_TD if x_TD.stride(1) == 1 else x_TD.contiguous()


def gate_sigmoid(logits_TE: Tensor, correction_E: Tensor | None, gate: SigmoidGate) -> tuple[Tensor, Tensor]:
    """As `reference.gate_sigmoid`, with scores whose bits do not depend on their place in the tensor."""
    check_sigmoid_gate(logits_TE, gate)
    return choose_by_scores(sigmoid(logits_TE.float()), correction_E, gate)
