"""Matrices in panels of 32 outputs, the layout that the native kernels stream from front to back.

O outputs, I inputs, P panels.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernels.formats.quantized import Matrix, Quantized, Scratch, as_dense
from kernels.native.library import library
from kernels.native.structs import HALF, PANEL, Format, MatrixStruct, PackCall, TakeCall

FORMATS = {torch.float32: Format.F32, torch.bfloat16: Format.BF16, torch.float16: Format.F16}
_BITS = {Format.F32: 32, Format.BF16: 16, Format.F16: 16, Format.FP8: 8, Format.INT8: 8, Format.FP4: 4, Format.INT4: 4}
_LINE = 64


@dataclass(frozen=True, eq=False)
class Panels(Quantized):
    """A matrix [O, I] that computes in `dtype`; `struct` points into the tensors, which it keeps.

    With `gate_up`, panels hold 16 rows of the first half of the outputs and the same 16 of the second.
    """

    outputs: int
    inputs: int
    dtype: torch.dtype
    struct: MatrixStruct
    gate_up: bool
    tensors: tuple[Tensor, ...] = field(repr=False)

    @property
    def shape(self) -> torch.Size:
        """(O, I)."""
        return torch.Size((self.outputs, self.inputs))

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self.tensors[0].device

    @property
    def nbytes(self) -> int:
        """Bytes resident, padding included."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def is_float(self) -> bool:
        """Whether the values are floats without scales."""
        return self.struct.format in FORMATS.values()

    def decode_into(self, start: int, out_MI: Tensor, scratch: Scratch) -> None:  # noqa: ARG002 (nothing is between)
        """As in `Quantized`."""
        out_MI.copy_(self.take(torch.arange(start, start + out_MI.shape[0])))

    def take(self, numbers_M: Tensor) -> Tensor:
        """Rows of a float matrix by number (int64, within range), [M, I]."""
        assert self.is_float, "of formats with scales no row is ever asked for"
        out_MI = torch.empty(len(numbers_M), self.inputs, dtype=self.dtype)
        call = TakeCall(
            ctypes.pointer(self.struct), numbers_M.data_ptr(), out_MI.data_ptr(), len(numbers_M), int(self.gate_up)
        )
        library().take(ctypes.byref(call))
        return out_MI


def panels_of(w_OI: Tensor, gate_up: bool = False) -> Panels:
    """Copy a float matrix into panels. With `gate_up`, O is even, and its first half is the gate.

    Raises:
        ValueError: not a matrix in bfloat16, float16 or float32 on the CPU.
    """
    if w_OI.ndim != 2 or w_OI.dtype not in FORMATS or not w_OI.is_cpu:
        raise ValueError(f"need a float matrix on the CPU, got {w_OI.dtype} {tuple(w_OI.shape)} on {w_OI.device}")
    parts = w_OI.contiguous().chunk(2) if gate_up else (w_OI.contiguous(),)
    return packed(FORMATS[w_OI.dtype], parts, w_OI.shape[1], w_OI.dtype, gate_up)


def packed(kind: Format, parts: tuple[Tensor, ...], inputs: int, dtype: torch.dtype, gate_up: bool) -> Panels:
    """Rows of values as they are stored, one contiguous tensor [rows, bytes or elements] for each part, into panels."""
    rows = parts[0].shape[0]
    panels = -(-rows // (HALF if gate_up else PANEL))
    values = aligned_zeros(panels * panel_bytes(kind, inputs))
    for number, part in enumerate(parts):
        row_bytes = part.stride(0) * part.element_size()
        half = number if gate_up else -1
        call = PackCall(part.data_ptr(), values.data_ptr(), rows, 0, inputs, row_bytes, kind, half)
        library().pack(ctypes.byref(call))
    outputs = rows * len(parts)
    struct = MatrixStruct(kind, 0, outputs, inputs, panels, 0, values.data_ptr(), None, None, None, None)
    return Panels(outputs, inputs, dtype, struct, gate_up, (values,))


def panel_bytes(kind: Format, inputs: int) -> int:
    """Bytes of a panel's values."""
    step = 8 if _BITS[kind] == 4 else 2
    return -(-inputs // step) * step * PANEL * _BITS[kind] // 8


def aligned_zeros(count: int) -> Tensor:
    """Bytes that begin at a cache line."""
    whole = torch.zeros(count + _LINE, dtype=torch.uint8)
    first = -whole.data_ptr() % _LINE
    return whole[first : first + count]


def as_panels(w_OI: Matrix, gate_up: bool = False) -> Panels:
    """A matrix as panels: those as they are, any other format than floats decoded first."""
    if isinstance(w_OI, Panels):
        if w_OI.gate_up != gate_up:
            return panels_of(w_OI.dense(), gate_up)
        return w_OI
    return panels_of(as_dense(w_OI), gate_up)
