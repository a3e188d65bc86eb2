"""Matrices kept in the format that a checkpoint publishes, decoded a few rows at a time.

The formats have files of their own; `RowStack` puts several matrices on top of each other.
Legend: O outputs (rows), I inputs (columns), M rows of a piece.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernels.formats.buffers import BUFFERS

FLOAT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

# Elements decoded at a time. One thread is fastest where they stay in the L2 cache; several must be woken for each of
# the operations (50 us where they wait passively), which pays for large ones only. On a GPU each launch is expensive.
_ELEMENTS = 1 << 17
_ELEMENTS_SHARED = 1 << 20
_ELEMENTS_GPU = 1 << 24


@dataclass(frozen=True)
class Scratch:
    """What decoding needs besides its result: float32 values, and int32 indices for every second of them."""

    wide_N: Tensor
    index_N: Tensor

    @classmethod
    def for_rows(cls, matrix: Quantized, rows: int) -> Scratch:
        """As much as decodes fastest, for at most so many rows of `matrix` at a time and at least one."""
        most = _ELEMENTS if torch.get_num_threads() == 1 else _ELEMENTS_SHARED
        if matrix.device.type != "cpu":
            most = _ELEMENTS_GPU
        inputs = matrix.shape[1]
        return cls.of_size(max(inputs, min(most, rows * inputs)), matrix.device)

    @classmethod
    def of_size(cls, elements: int, device: torch.device) -> Scratch:
        """For pieces of so many elements; good until this thread asks for the next."""
        wide_N = BUFFERS.take("wide", elements, torch.float32, device)
        return cls(wide_N, BUFFERS.take("index", -(-elements // 2), torch.int32, device))


class Quantized(ABC):
    """A matrix [O, I] that decodes to `dtype`: what every format has in common.

    Values are computed in float32 and rounded once: one beyond what float16 holds becomes an infinity.
    """

    dtype: torch.dtype

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """(O, I)."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the packed tensors lie."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes resident: the packed values and their scales."""

    @abstractmethod
    def decode_into(self, start: int, out_MI: Tensor, scratch: Scratch) -> None:
        """Write rows from `start` on into `out_MI` (of `dtype`), as many as it has; the caller checks the range."""

    def rows(self, start: int, end: int) -> Tensor:
        """Rows start..end-1 [end-start, I] in `dtype`, contiguous. ValueError unless 0 <= start <= end <= O."""
        if not 0 <= start <= end <= self.shape[0]:
            raise ValueError(f"rows {start}..{end} do not lie in a matrix of {self.shape[0]} rows")
        out_MI = torch.empty(end - start, self.shape[1], dtype=self.dtype, device=self.device)
        self.decode_into(start, out_MI, Scratch.for_rows(self, end - start))
        return out_MI

    def dense(self) -> Tensor:
        """The whole matrix [O, I] in `dtype`, filled piece by piece."""
        return self.rows(0, self.shape[0])

    def dense_into(self, out_OI: Tensor) -> None:
        """As `dense`, into an existing tensor; ValueError if its shape, dtype or device differs."""
        if out_OI.shape != self.shape or out_OI.dtype != self.dtype or out_OI.device != self.device:
            raise ValueError(
                f"out must be {self.dtype} {tuple(self.shape)} on {self.device}, "
                f"got {out_OI.dtype} {tuple(out_OI.shape)} on {out_OI.device}"
            )
        self.decode_into(0, out_OI, Scratch.for_rows(self, len(out_OI)))


# A matrix to multiply with: dense (maybe in a library's own layout), or quantized.
Matrix = Tensor | Quantized


def as_dense(w_OI: Matrix) -> Tensor:
    """A dense matrix as it is, a quantized one decoded."""
    return w_OI if isinstance(w_OI, Tensor) else w_OI.dense()


class Coded(Quantized):
    """A format whose rows decode to float32 in a scratch buffer; subclasses say how. All tensors are packed ones."""

    @cached_property
    def device(self) -> torch.device:
        """Where the packed tensors lie."""
        return self._packed()[0].device

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return sum(tensor.nbytes for tensor in self._packed())

    def _packed(self) -> list[Tensor]:
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    @abstractmethod
    def _wide(self, start: int, end: int, scratch: Scratch) -> Tensor:
        """Rows start..end-1 in float32, [end-start, I], in `scratch`."""

    def _rows_at_once(self, scratch: Scratch) -> int:
        return scratch.wide_N.shape[0] // self.shape[1]

    def decode_into(self, start: int, out_MI: Tensor, scratch: Scratch) -> None:
        """As in `Quantized`, in as many steps as `scratch` is too small for."""
        rows, step = out_MI.shape[0], self._rows_at_once(scratch)
        for first in range(0, rows, step):
            last = min(rows, first + step)
            out_MI[first:last].copy_(self._wide(start + first, start + last, scratch))


@dataclass(frozen=True, eq=False)
class RowStack(Quantized):
    """Quantized matrices [O_i, I] as one of [sum of O_i, I], the first on top; each keeps its own scales.

    So a gate of 200 rows, no whole number of blocks, can stand over its up. Raises ValueError for no part, and for
    parts that differ in their number of columns, in dtype or in device.
    """

    parts: tuple[Quantized, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a RowStack needs at least one matrix")
        kinds = {(part.shape[1], part.dtype, part.device) for part in self.parts}
        if len(kinds) > 1:
            found = ", ".join(f"{inputs} {dtype} on {device}" for inputs, dtype, device in sorted(kinds, key=str))
            raise ValueError(f"stacked matrices must share columns, dtype and device, got {found}")

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """What the parts decode to."""
        return self.parts[0].dtype

    @cached_property
    def shape(self) -> torch.Size:
        """(O, I) of the whole."""
        return torch.Size((sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]))

    @property
    def device(self) -> torch.device:
        """Where the parts lie."""
        return self.parts[0].device

    @property
    def nbytes(self) -> int:
        """Bytes resident in all parts."""
        return sum(part.nbytes for part in self.parts)

    def decode_into(self, start: int, out_MI: Tensor, scratch: Scratch) -> None:
        """As in `Quantized`: each part decodes the rows that are its own."""
        above, end = 0, start + out_MI.shape[0]
        for part in self.parts:
            first, last = max(start, above), min(end, above + part.shape[0])
            if first < last:
                part.decode_into(first - above, out_MI[first - start : last - start], scratch)
            above += part.shape[0]
