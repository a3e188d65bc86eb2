"""y = x W^T by the native kernels. M rows, I inputs, O outputs."""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.formats.quantized import Matrix
from kernels.native.library import check, library
from kernels.native.panels import Panels, as_panels
from kernels.native.structs import PANEL, LinearCall

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def padded_bias(bias_O: Tensor) -> Tensor:
    """In float32, with zeros up to whole panels, as the kernels read it."""
    return F.pad(bias_O.float(), (0, -bias_O.shape[-1] % PANEL)).contiguous()


def prepare_matrix(w_OI: Matrix, *, gate_up: bool = False) -> Panels:
    """The matrix in panels, a copy; one that is in panels already comes back as it is."""
    return as_panels(w_OI, gate_up)


def linear(x_MI: Tensor, w_OI: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """y_MO in x's dtype, added up in float32; a row's bits do not depend on the other rows or the threads."""
    return product(x_MI, w_OI if isinstance(w_OI, Panels) else as_panels(w_OI), bias_O)


def take_rows(w_OI: Matrix, numbers_M: Tensor) -> Tensor:
    """Rows of a float matrix in panels, [M, I] in its dtype, as an embedding wants them.

    Raises:
        IndexError: a number outside 0..O-1.
        ValueError: the matrix is in another format.
    """
    if not isinstance(w_OI, Panels) or not w_OI.is_float:
        raise ValueError("rows can be taken from float matrices in panels only")
    if len(numbers_M) and not 0 <= int(numbers_M.min()) <= int(numbers_M.max()) < w_OI.outputs:
        raise IndexError(f"row numbers must lie in 0..{w_OI.outputs - 1}")
    return w_OI.take(numbers_M)


def product(x_MI: Tensor, w_OI: Panels, bias_O: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """As `linear`, with the result in `dtype`.

    Raises:
        ValueError: x has not I columns, or another dtype than the matrix.
    """
    if x_MI.ndim != 2 or x_MI.shape[1] != w_OI.inputs or x_MI.dtype != w_OI.dtype:
        raise ValueError(f"x {tuple(x_MI.shape)} {x_MI.dtype} does not fit {tuple(w_OI.shape)} {w_OI.dtype}")
    if x_MI.stride(1) != 1:
        x_MI = x_MI.contiguous()
    rows = x_MI.shape[0]
    bias = None if bias_O is None else padded_bias(bias_O)
    y_MO = x_MI.new_empty(rows, w_OI.outputs, dtype=dtype)
    if rows:
        call = LinearCall(
            ctypes.pointer(w_OI.struct),
            x_MI.data_ptr(),
            None if bias is None else bias.data_ptr(),
            y_MO.data_ptr(),
            rows,
            x_MI.stride(0),
            w_OI.outputs,
            DTYPES[x_MI.dtype],
            DTYPES[y_MO.dtype],
            torch.get_num_threads(),
        )
        check(library().linear(call))
    return y_MO
