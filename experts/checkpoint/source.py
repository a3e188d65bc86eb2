"""Where a tensor of ours lies in a checkpoint: the stored tensors that make it up, their layout and encoding.

Publishers store the same matrices differently: one tensor per expert or one for all, transposed, gate and up rows
interleaved, as floats, as 8-bit or as 4-bit blocks. All of that is data here, so that one loader reads every family.
O outputs (rows), I inputs (columns), E experts.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

Shape = tuple[int, ...]

FLOATS = ("F32", "F16", "BF16")
MXFP4_BLOCK = 32


class Layout(StrEnum):
    """How a stored tensor lies beside ours."""

    PLAIN = "plain"
    TRANSPOSED = "transposed"  # [I, O]
    INTERLEAVED = "interleaved"  # rows of gate and up in turn
    TRANSPOSED_INTERLEAVED = "transposed_interleaved"  # [I, O], columns of gate and up in turn


class Encoding(StrEnum):
    """How a stored tensor's values are written."""

    PLAIN = "plain"
    FP8 = "fp8"  # E4M3 values, a scale for each block of rows and columns (DeepSeek-V3)
    MXFP4 = "mxfp4"  # two E2M1 values a byte, a scale for each 32 of a row (OCP Microscaling 1.0)


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that the checkpoint must hold: name, shape and the dtypes it may have."""

    name: str
    shape: Shape
    dtypes: tuple[str, ...] = FLOATS


@dataclass(frozen=True, slots=True)
class Part:
    """One stored tensor and the `shape` it has with us.

    `entry` (index, count) is our place in a tensor that holds `count` experts; `block` is what shares one scale of FP8.
    """

    name: str
    shape: Shape
    layout: Layout = Layout.PLAIN
    entry: tuple[int, int] | None = None
    encoding: Encoding = Encoding.PLAIN
    block: tuple[int, int] = (128, 128)

    @property
    def index(self) -> int | None:
        """Which entry of the stored tensor is ours; None for all of it."""
        return None if self.entry is None else self.entry[0]

    def stored(self) -> tuple[Stored, ...]:
        """The tensors that the checkpoint must hold for this part."""
        turned = self.layout in (Layout.TRANSPOSED, Layout.TRANSPOSED_INTERLEAVED)
        shape = self.shape[::-1] if turned else self.shape
        if self.encoding is Encoding.FP8:
            scales = tuple(-(-size // step) for size, step in zip(shape, self.block, strict=True))
            return self._whole(self.name, shape, "F8_E4M3"), self._whole(scales_name(self.name), scales, *FLOATS)
        if self.encoding is Encoding.MXFP4:
            groups = (shape[0], shape[1] // MXFP4_BLOCK)
            blocks = (*groups, MXFP4_BLOCK // 2)
            return self._whole(f"{self.name}_blocks", blocks, "U8"), self._whole(f"{self.name}_scales", groups, "U8")
        return (self._whole(self.name, shape, *FLOATS),)

    def packed_bytes(self) -> int:
        """Bytes as published, scales in float32 for FP8."""
        if self.encoding is Encoding.MXFP4:
            return math.prod(self.shape) // 2 + math.prod(self.shape) // MXFP4_BLOCK
        rows, columns = (-(-size // step) for size, step in zip(self.shape, self.block, strict=True))
        return math.prod(self.shape) + 4 * rows * columns

    def _whole(self, name: str, shape: Shape, *dtypes: str) -> Stored:
        return Stored(name, shape if self.entry is None else (self.entry[1], *shape), dtypes)


@dataclass(frozen=True, slots=True)
class TensorSource:
    """A tensor of ours made of parts stacked along the first dimension.

    `float32` keeps it so whatever the model's dtype: for what the model's own code computes in float32.
    """

    shape: Shape
    parts: tuple[Part, ...]
    float32: bool = False

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def encoded(self) -> bool:
        """Whether every part is stored in blocks with scales, so that it can be kept as it was published."""
        return all(part.encoding is not Encoding.PLAIN for part in self.parts)

    def resident_bytes(self, dtype: torch.dtype, packed: bool) -> int:
        """Bytes in memory, in `dtype` or, where it is encoded and `packed`, as published."""
        if packed and self.encoded:
            return sum(part.packed_bytes() for part in self.parts)
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


def scales_name(name: str) -> str:
    """What DeepSeek calls the scales of an FP8 matrix; despite the name they multiply."""
    return f"{name}_scale_inv"


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
