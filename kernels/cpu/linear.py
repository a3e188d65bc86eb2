"""The fastest y = x W^T that torch has on a CPU for few rows: oneDNN with weights packed once.

Measured on Zen 5 (AVX-512 bf16, no AMX): 1.4 to 2.5 times torch.mm for 1 to 32 rows, in bfloat16 and in float32,
because weights are reordered into oneDNN's layout once, not in each call. A packed matrix takes the place of the dense
one, so memory stays the same.
Legend: M rows, I inputs, O outputs, S outputs decoded at a time.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kernels.cpu.widening import native, plain_linear
from kernels.formats.buffers import BUFFERS
from kernels.formats.quantized import Matrix, Quantized, Scratch

# Up to here every row count gets a primitive of its own; above, eight sizes an octave share them.
_EXACT_ROWS = 15
# Of a quantized matrix decoded at a time, so that it is still in a cache when it is multiplied. From half of this to
# twice as much takes the same time within 15%, with one thread or two.
_PIECE_BYTES = 1 << 21


def prepare_matrix(w_OI: Matrix, *, gate_up: bool = False) -> Matrix:  # noqa: ARG001 (one layout for both)
    """The matrix in oneDNN's blocked layout (opaque: `is_mkldnn`), or unchanged where this CPU gains nothing from it.

    A packed or quantized matrix comes back unchanged, and so does one of a dtype that this CPU has no instructions for:
    there torch's layout is the fastest for `linear`. Copies; the caller may drop the original.
    """
    if not native(w_OI.dtype) or isinstance(w_OI, Quantized) or w_OI.is_mkldnn or not _can_pack(w_OI.dtype):
        return w_OI
    return _reorder(w_OI.contiguous())


def linear(x_MI: Tensor, w_OI: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """y_MO = x W^T + b in x's dtype for a matrix from `prepare_matrix`; x and a bias have the matrix's dtype.

    The first call with a new number of rows compiles a primitive (about 2 ms): where rows vary, take `padded` numbers.
    """
    if not isinstance(w_OI, Tensor):
        return _by_pieces(x_MI, w_OI, bias_O)
    if w_OI.is_mkldnn:
        y_MO: Tensor = torch.ops.mkldnn._linear_pointwise.default(x_MI, w_OI, bias_O, "none", [], "")
        return y_MO
    return plain_linear(x_MI, w_OI, bias_O)


def _by_pieces(x_MI: Tensor, w_OI: Quantized, bias_O: Tensor | None) -> Tensor:
    """`linear` for a quantized matrix: rows of it are decoded and multiplied while they lie in the cache.

    Needs 3 MiB besides (8 where threads share work), 4 more where it is widened to be multiplied, and more only for 128
    rows above 2 MiB; a thread keeps that memory.
    """
    outputs, inputs = w_OI.shape
    step = min(outputs, max(128, _PIECE_BYTES // (inputs * w_OI.dtype.itemsize) // 128 * 128))
    y_MO = x_MI.new_empty(x_MI.shape[0], outputs)
    piece_SI = BUFFERS.take("piece", step * inputs, w_OI.dtype, x_MI.device).view(step, inputs)
    scratch = Scratch.for_rows(w_OI, step)
    for start in range(0, outputs, step):
        end = min(outputs, start + step)
        w_OI.decode_into(start, piece_SI[: end - start], scratch)
        y_MO[:, start:end] = plain_linear(x_MI, piece_SI[: end - start], None if bias_O is None else bias_O[start:end])
    return y_MO


def linear_any_rows(x_MI: Tensor, w_OI: Matrix, bias_O: Tensor | None = None) -> Tensor:
    """As `linear`, for callers whose number of rows changes from call to call: rows are padded here."""
    rows = x_MI.shape[0]
    extra = padded(rows) - rows
    if extra == 0:
        return linear(x_MI, w_OI, bias_O)
    return linear(torch.cat((x_MI, x_MI.new_zeros(extra, x_MI.shape[1]))), w_OI, bias_O)[:rows]


def padded(rows: int) -> int:
    """The next of the row counts that have primitives: exact up to 15, then eight an octave (under 1/8 more)."""
    if rows <= _EXACT_ROWS:
        return rows
    step = 1 << (rows.bit_length() - 4)
    return -(-rows // step) * step


@cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and takes this dtype: the ops are private to torch, so try them."""
    try:
        y_MO = linear(torch.ones(1, 16, dtype=dtype), _reorder(torch.ones(16, 16, dtype=dtype)))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return bool((y_MO == 16).all())


def _reorder(w_OI: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight.default(w_OI, None)
    return packed
