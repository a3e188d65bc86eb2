"""Matrices in panels of 32 outputs, the layout that the native kernels stream from front to back.

O outputs, I inputs, P panels.
"""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernels.formats.quantized import Matrix, Quantized, RowStack, Scratch
from kernels.native.library import library
from kernels.native.memory import ARENA
from kernels.native.scales import in_panels, panel_rows, scales_in_panels
from kernels.native.stored import UnsupportedError, stored
from kernels.native.structs import PANEL, Format, MatrixStruct, PackCall, TakeCall

log = logging.getLogger(__name__)

FORMATS = {torch.float32: Format.F32, torch.bfloat16: Format.BF16, torch.float16: Format.F16}
_BITS = {Format.F32: 32, Format.BF16: 16, Format.F16: 16, Format.FP8: 8, Format.INT8: 8, Format.FP4: 4, Format.INT4: 4}
# Inputs are padded to whole steps of every format, so that experts of one layer can differ in theirs.
STEP = 8


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
        if not self.is_float:
            raise ValueError("rows of a matrix in panels can be taken only where it holds floats")
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
    kind = FORMATS[w_OI.dtype]
    values = _pack(kind, (w_OI.contiguous(),), w_OI.shape, gate_up)
    struct = MatrixStruct(kind, 0, *w_OI.shape, _panels(len(w_OI)), 0, values.data_ptr())
    outputs, inputs = w_OI.shape
    return Panels(outputs, inputs, w_OI.dtype, struct, gate_up, (values,))


def packed_panels(w_OI: Quantized, gate_up: bool = False) -> Panels:
    """Copy a quantized matrix into panels, its values as they were published.

    Raises:
        UnsupportedError: the kernels cannot compute from its bytes.
    """
    if w_OI.device.type != "cpu":
        raise ValueError(f"need a matrix on the CPU, got one on {w_OI.device}")
    source, (outputs, inputs) = stored(w_OI), w_OI.shape
    rows_N = panel_rows(outputs, gate_up)
    kind, scales, outer = scales_in_panels(source.scales_OG, source.outer_O, rows_N)
    zeros = None if source.zeros_OG is None else in_panels(source.zeros_OG, rows_N)
    values = _pack(source.kind, source.values, w_OI.shape, gate_up)
    further = (scales, zeros, outer, source.places_I)
    tensors = (values, *(None if tensor is None else ARENA.copy(tensor) for tensor in further))
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
    struct = MatrixStruct(source.kind, kind, outputs, inputs, _panels(outputs), source.group, *pointers)
    kept = tuple(tensor for tensor in tensors if tensor is not None)
    return Panels(outputs, inputs, w_OI.dtype, struct, gate_up, kept)


def _panels(outputs: int) -> int:
    return -(-outputs // PANEL)


def _pack(kind: Format, matrices: tuple[Tensor, ...], shape: torch.Size, gate_up: bool) -> Tensor:
    """Rows of values as they are stored, of matrices on top of each other, into panels."""
    values = ARENA.zeros(_panels(shape[0]) * panel_bytes(kind, shape[1]))
    above = 0
    for part in matrices:
        for half, begin, end in _halves(shape[0], gate_up):
            first, last = max(above, begin), min(above + len(part), end)
            if first < last:
                rows = part[first - above : last - above]
                _pack_rows(kind, rows, shape[1], values, first - begin, half)
        above += len(part)
    return values


def _halves(outputs: int, gate_up: bool) -> tuple[tuple[int, int, int], ...]:
    """(Which half, its first row, the row behind its last); -1 for a matrix that has no halves."""
    middle = outputs // 2
    return ((0, 0, middle), (1, middle, outputs)) if gate_up else ((-1, 0, outputs),)


def _pack_rows(kind: Format, rows: Tensor, inputs: int, values: Tensor, first_row: int, half: int) -> None:
    row_bytes = rows.shape[1] * rows.element_size()
    call = PackCall(rows.data_ptr(), values.data_ptr(), len(rows), first_row, inputs, row_bytes, kind, half)
    library().pack(ctypes.byref(call))


def panel_bytes(kind: Format, inputs: int) -> int:
    """Bytes of a panel's values."""
    return -(-inputs // STEP) * STEP * PANEL * _BITS[kind] // 8


def as_panels(w_OI: Matrix, gate_up: bool = False) -> Panels:
    """A matrix as panels: those as they are, and a format that the kernels do not read decoded first."""
    if isinstance(w_OI, Panels):
        return w_OI if w_OI.gate_up == gate_up else panels_of(w_OI.dense(), gate_up)
    if isinstance(w_OI, Tensor):
        return panels_of(w_OI, gate_up)
    try:
        return packed_panels(w_OI, gate_up)
    except UnsupportedError as error:
        log.warning("%s %s is kept as %s: %s", _name(w_OI), tuple(w_OI.shape), w_OI.dtype, error)
        return panels_of(w_OI.dense(), gate_up)


def _name(w_OI: Quantized) -> str:
    kinds = {type(part).__name__ for part in w_OI.parts} if isinstance(w_OI, RowStack) else {type(w_OI).__name__}
    return " and ".join(sorted(kinds))
