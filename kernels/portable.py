"""Prepared matrices taken apart for another process, and put together there: no value is computed anew.

What came may be wrong, and native kernels follow pointers: every size is checked.
O outputs, I inputs, P panels of 32 outputs, G groups of inputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats.quantized import FLOAT_DTYPES, Matrix
from kernels.native.memory import ARENA
from kernels.native.panels import FORMATS, Panels, panel_bytes
from kernels.native.stored import STEPS
from kernels.native.structs import PANEL, VERSION, Format, MatrixStruct, Scale

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in FLOAT_DTYPES}
_BYTES = {Scale.F32: 4, Scale.BF16: 2, Scale.F16: 2, Scale.E8M0: 1, Scale.E4M3: 1}
MOST_SIZE = 1 << 24


class UnportableError(ValueError):
    """A matrix that cannot be taken apart, or parts that make no matrix."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A matrix [O, I] as `tensors`, each of bytes; `numbers` say what they are, `dtype` what it computes in.

    The numbers of panels: layout version, format, kind of scales, group, whether it is a gate over an up, and which of
    values, scales, zeros, outer and places there are, as bits. A plain matrix has none.
    """

    dtype: str
    outputs: int
    inputs: int
    numbers: tuple[int, ...]
    tensors: tuple[Tensor, ...]


def parts_of(w_OI: Matrix) -> Parts:
    """Take a matrix apart; its bytes are not copied.

    Raises:
        UnportableError: it is on a device, or in a layout that only its library knows.
    """
    if isinstance(w_OI, Panels):
        return _panel_parts(w_OI)
    if not isinstance(w_OI, Tensor) or w_OI.is_mkldnn or not w_OI.is_cpu or w_OI.dtype not in FLOAT_DTYPES:
        raise UnportableError("only panels and plain matrices on a CPU can be sent")
    return Parts(_name(w_OI.dtype), w_OI.shape[0], w_OI.shape[1], (), (_bytes(w_OI),))


def matrix_of(parts: Parts) -> Matrix:
    """Put a matrix together, in memory of its own.

    Raises:
        UnportableError: the parts do not make a matrix that this library computes with.
    """
    dtype = _DTYPES.get(parts.dtype)
    if dtype is None or not (0 < parts.outputs <= MOST_SIZE and 0 < parts.inputs <= MOST_SIZE):
        raise UnportableError(f"no matrix of {parts.outputs} x {parts.inputs} {parts.dtype[:20]}")
    if parts.numbers:
        return _panels(parts, dtype)
    if len(parts.tensors) != 1 or parts.tensors[0].nbytes != parts.outputs * parts.inputs * dtype.itemsize:
        raise UnportableError(f"a plain matrix of {parts.outputs} x {parts.inputs} has other bytes")
    return parts.tensors[0].clone().view(dtype).view(parts.outputs, parts.inputs)


def _panel_parts(w_OI: Panels) -> Parts:
    struct = w_OI.struct
    present = (struct.values, struct.scales, struct.zeros, struct.outer, struct.places)
    mask = sum(1 << place for place, pointer in enumerate(present) if pointer)
    numbers = (VERSION, struct.format, struct.scale, struct.group, int(w_OI.gate_up), mask)
    return Parts(_name(w_OI.dtype), w_OI.outputs, w_OI.inputs, numbers, tuple(map(_bytes, w_OI.tensors)))


def _panels(parts: Parts, dtype: torch.dtype) -> Panels:
    sizes = _sizes(parts)
    if [tensor.nbytes for tensor in parts.tensors] != [size for size in sizes if size]:
        raise UnportableError("the parts of a matrix in panels have other sizes")
    tensors = tuple(ARENA.copy(tensor) for tensor in parts.tensors)
    if sizes[-1]:
        _check_places(tensors[-1].view(torch.int32), parts.inputs)
    left = iter(tensors)
    pointers = [next(left).data_ptr() if size else None for size in sizes]
    _, kind, scale, group, gate_up, _ = parts.numbers
    struct = MatrixStruct(kind, scale, parts.outputs, parts.inputs, _count(parts), group, *pointers)
    return Panels(parts.outputs, parts.inputs, dtype, struct, bool(gate_up), tensors)


def _sizes(parts: Parts) -> tuple[int, ...]:
    """Bytes of values, scales, zeros, outer and places, 0 for what there is none of."""
    kind, scale, group, mask = _checked(parts)
    panels, groups = _count(parts), math.ceil(parts.inputs / group) if group else 1
    of_scales = panels * groups * (8 if scale is Scale.HALVES else PANEL * _BYTES.get(scale, 0))
    all_of = (
        panels * panel_bytes(kind, parts.inputs),
        of_scales,
        panels * groups * PANEL,
        panels * 8,
        parts.inputs * 4,
    )
    return tuple(size if mask >> place & 1 else 0 for place, size in enumerate(all_of))


def _checked(parts: Parts) -> tuple[Format, Scale, int, int]:
    if len(parts.numbers) != 6 or parts.numbers[0] != VERSION:
        raise UnportableError("panels of another version of the kernels")
    _, kind, scale, group, gate_up, mask = parts.numbers
    try:
        known = Format(kind), Scale(scale)
    except ValueError as error:
        raise UnportableError(f"panels in an unknown format: {error}") from None
    floats = known[0] in FORMATS.values()
    # Floats have values alone; others have scales, and zero points only as INT4.
    needed = 0b1 if floats else 0b11
    allowed = needed if floats else 0b11011 | (0b100 if known[0] is Format.INT4 else 0)
    if mask & needed != needed or mask & ~allowed or floats is not (known[1] is Scale.NONE):
        raise UnportableError("panels with other parts than their format has")
    if (
        not 0 <= group <= parts.inputs
        or group % STEPS.get(known[0], parts.inputs + 1)
        or gate_up not in (0, 1)
        or (gate_up and parts.outputs % 2)
    ):
        raise UnportableError("panels with impossible numbers")
    return *known, group, mask


def _check_places(places_I: Tensor, inputs: int) -> None:
    if int(places_I.min()) < 0 or int(places_I.max()) >= inputs:
        raise UnportableError(f"an input's place is not among the {inputs} inputs")


def _count(parts: Parts) -> int:
    """P; a gate and its up share a panel, 16 outputs of each."""
    return -(-parts.outputs // PANEL)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
