"""Small products by the library against numpy, before anything relies on them.

The numbers are small integers: every sum is exact in every order, so the results must be equal.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.native.structs import PANEL, Format, LinearCall, MatrixStruct, PackCall, Status

# More rows than a tile has, an odd number of inputs beyond whole tiles, outputs beyond a panel.
ROWS, INPUTS, OUTPUTS = (1, 4, 37), (7, 101), 40
_F32 = 0
_DTYPES = {Format.F32: 0, Format.BF16: 1, Format.F16: 2}

Numbers = NDArray[np.float32]


class Products(Protocol):
    """What of `library.Library` is checked."""

    @property
    def pack(self) -> Callable[[PackCall], Any]:
        """Copies rows into panels."""

    @property
    def linear(self) -> Callable[[LinearCall], int]:
        """A product with panels; returns a `Status`."""


def wrong_product(library: Products) -> str | None:
    """What the instruction set in use computes wrongly, such as "bf16, 4 rows"; None where all is right."""
    for kind, rows, inputs in _cases():
        x_MI, w_OI = _integers((rows, inputs)), _integers((OUTPUTS, inputs))
        if not np.array_equal(_product(library, kind, x_MI, w_OI), x_MI @ w_OI.T):
            return f"{kind.name.lower()}, {rows} rows"
    return None


def _cases() -> Iterator[tuple[Format, int, int]]:
    return ((kind, rows, inputs) for kind in _DTYPES for rows in ROWS for inputs in INPUTS)


def _integers(shape: tuple[int, int]) -> Numbers:
    """From -4 to 4, in no order that repeats within a panel or a tile."""
    count = shape[0] * shape[1]
    return ((np.arange(1, count + 1, dtype=np.int64) ** 2 * 7919 % 104729) % 9 - 4).astype(np.float32).reshape(shape)


def _stored(kind: Format, values: Numbers) -> NDArray[np.generic]:
    if kind is Format.F16:
        return values.astype(np.float16)
    if kind is Format.BF16:
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values


def _product(library: Products, kind: Format, x_MI: Numbers, w_OI: Numbers) -> Numbers:
    """y_MO in float32."""
    (rows, inputs), outputs = x_MI.shape, w_OI.shape[0]
    x, w = _stored(kind, x_MI), _stored(kind, w_OI)
    panels = -(-outputs // PANEL)
    values = np.zeros((panels, -(-inputs // 8) * 8, PANEL), w.dtype)
    library.pack(PackCall(w.ctypes.data, values.ctypes.data, outputs, 0, inputs, inputs * w.itemsize, kind, -1))
    matrix = MatrixStruct(kind, 0, outputs, inputs, panels, 0, values.ctypes.data, None, None, None, None)
    y_MO = np.full((rows, outputs), np.nan, np.float32)
    pointer = ctypes.pointer(matrix)
    call = LinearCall(
        pointer, x.ctypes.data, None, y_MO.ctypes.data, rows, inputs, outputs, _DTYPES[kind], _F32, threads=1
    )
    return y_MO if library.linear(call) == Status.OK else np.full_like(y_MO, np.nan)
