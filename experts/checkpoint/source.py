"""Where a tensor of ours lies in a checkpoint: the stored tensors that make it up, their layout and encoding.

Publishers store the same matrices differently: one tensor per expert or one for all, transposed, gate and up rows
interleaved, as floats or in a quantized format. All of that is data here, so that one loader reads every family.
O outputs (rows), I inputs (columns), E experts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from experts.checkpoint.encodings.encoding import Encoding
from experts.checkpoint.stored import Shape, Stored
from kernels.formats.rounding import Rounding


class Layout(StrEnum):
    """How a stored tensor lies beside ours."""

    PLAIN = "plain"
    TRANSPOSED = "transposed"  # [I, O]
    INTERLEAVED = "interleaved"  # rows of gate and up in turn
    TRANSPOSED_INTERLEAVED = "transposed_interleaved"  # [I, O], columns of gate and up in turn


@dataclass(frozen=True, slots=True)
class Part:
    """One stored tensor, or one matrix in an `encoding` of several tensors, and the `shape` it has with us.

    `entry` (index, count) is our place in a tensor that holds `count` experts.
    """

    name: str
    shape: Shape
    layout: Layout = Layout.PLAIN
    entry: tuple[int, int] | None = None
    encoding: Encoding | None = None

    @property
    def index(self) -> int | None:
        """Which entry of the stored tensor is ours; None for all of it."""
        return None if self.entry is None else self.entry[0]

    def stored(self) -> tuple[Stored, ...]:
        """The tensors that the checkpoint must hold for this part."""
        turned = self.layout in (Layout.TRANSPOSED, Layout.TRANSPOSED_INTERLEAVED)
        shape = self.shape[::-1] if turned else self.shape
        alone = (Stored(self.name, shape),) if self.encoding is None else self.encoding.stored(self.name, shape)
        return alone if self.entry is None else tuple(one.entry_of(self.entry[1]) for one in alone)


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor of ours made of parts stacked along the first dimension.

    `float32` keeps it so whatever the model's dtype: for what the model's own code computes in float32. `rounding` is
    what a matrix that is stored in floats becomes when it is read.
    """

    shape: Shape
    parts: tuple[Part, ...]
    float32: bool = False
    rounding: Rounding | None = None

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def encoded(self) -> bool:
        """Whether every part is stored in blocks with scales, so that it can be kept as it was published."""
        return all(part.encoding is not None for part in self.parts)

    def rounded(self, rounding: Rounding) -> "TensorSource":
        """The same, to be rounded when it is read; unchanged where any part of it is stored in blocks with scales."""
        plain = len(self.shape) == 2 and not self.float32 and all(part.encoding is None for part in self.parts)
        return replace(self, rounding=rounding) if plain else self

    def resident_bytes(self, dtype: torch.dtype, packed: bool) -> int:
        """Bytes in memory: rounded, as published where it is encoded and `packed`, else in `dtype`."""
        if self.rounding is not None:
            rows, columns = self.shape
            return self.rounding.nbytes((rows, columns))
        encodings = [part.encoding for part in self.parts if part.encoding is not None]
        if packed and self.encoded:
            return sum(form.packed_bytes(part.shape) for form, part in zip(encodings, self.parts, strict=True))
        return self.elements * (torch.float32 if self.float32 else dtype).itemsize

    def stored(self) -> Iterator[Stored]:
        """The tensors that the checkpoint must hold for it."""
        for part in self.parts:
            yield from part.stored()


def stacked(*parts: Part, float32: bool = False) -> TensorSource:
    """A tensor of parts stacked along their first dimension."""
    rows = sum(part.shape[0] for part in parts)
    return TensorSource((rows, *parts[0].shape[1:]), parts, float32)


def plain(name: str, *shape: int, float32: bool = False) -> TensorSource:
    """A tensor that is stored in our layout."""
    return stacked(Part(name, shape), float32=float32)


def as_stored(out: Tensor, layout: Layout) -> Tensor:
    """A view of our tensor whose elements, row by row, are in the order of the stored one."""
    if layout is Layout.TRANSPOSED:
        return out.t()
    if layout is Layout.INTERLEAVED:
        return _gate_and_up(out).transpose(0, 1)
    if layout is Layout.TRANSPOSED_INTERLEAVED:
        return _gate_and_up(out).permute(2, 1, 0)
    return out


def _gate_and_up(out: Tensor) -> Tensor:
    """[2F, ...] as [2, F, ...]."""
    return out.view(2, len(out) // 2, *out.shape[1:])
