"""What the kernels read of a quantized matrix: its values as published, and what scales them, row by row.

O outputs, I inputs, G groups along them, B bytes of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.formats import mxfp4, nvfp4
from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.int4_groups import Int4Groups
from kernels.formats.int8_groups import Int8Groups
from kernels.formats.mxfp4 import Mxfp4
from kernels.formats.nvfp4 import Nvfp4
from kernels.formats.quantized import Quantized, RowStack
from kernels.formats.scaled import Int8Channel, ScaledFp8
from kernels.native.structs import Format

# Inputs that are packed together: a group that ends between them cannot be told apart.
STEPS = {Format.FP8: 2, Format.INT8: 2, Format.FP4: 8, Format.INT4: 8}


class UnsupportedError(Exception):
    """The kernels cannot compute from these bytes exactly; the message says why."""


@dataclass(frozen=True, eq=False)
class Stored:
    """One or more matrices on top of each other, in one format.

    Args:
        kind: what the values are.
        group: inputs that share a scale; 0 for all of them.
        values: contiguous, [O_i, B] or [O_i, I] in a dtype of one byte, one tensor for each matrix.
        scales_OG: uint8 for E8M0, float8_e4m3fn, or floats.
        outer_O: float32, multiplies the scales; None for 1.
        zeros_OG: uint8, what is subtracted from an INT4 code; None for 8.
        places_I: int32, where each input stands among the values; None for in order.
    """

    kind: Format
    group: int
    values: tuple[Tensor, ...]
    scales_OG: Tensor
    outer_O: Tensor | None = None
    zeros_OG: Tensor | None = None
    places_I: Tensor | None = None


def stored(w_OI: Quantized) -> Stored:
    """What `w_OI` holds, without copies of its values.

    Raises:
        UnsupportedError: see there.
    """
    if isinstance(w_OI, RowStack):
        return _stacked([stored(part) for part in w_OI.parts])
    read = FORMATS.get(type(w_OI))
    if read is None:
        raise UnsupportedError("the native kernels do not know the format")
    found = read(w_OI)
    inputs, step = w_OI.shape[1], STEPS[found.kind]
    if found.group >= inputs:
        return replace(found, group=0)
    if found.group % step:
        raise UnsupportedError(f"groups of {found.group} inputs are no multiple of {step}")
    return found


def _stacked(parts: list[Stored]) -> Stored:
    first = parts[0]
    if any(
        (part.kind, part.group, part.scales_OG.dtype) != (first.kind, first.group, first.scales_OG.dtype)
        for part in parts
    ):
        raise UnsupportedError("matrices stacked on each other differ in format, groups or dtype of scales")
    if any((part.zeros_OG is None) != (first.zeros_OG is None) for part in parts):
        raise UnsupportedError("of matrices stacked on each other some have zero points")
    if not all(_same(part.places_I, first.places_I) for part in parts):
        raise UnsupportedError("matrices stacked on each other differ in the order of their inputs")
    return Stored(
        first.kind,
        first.group,
        tuple(values for part in parts for values in part.values),
        _rows([part.scales_OG for part in parts]),
        None if first.outer_O is None else torch.cat([_outer(part) for part in parts]),
        None if first.zeros_OG is None else torch.cat([part.zeros_OG for part in parts if part.zeros_OG is not None]),
        first.places_I,
    )


def _rows(parts: list[Tensor]) -> Tensor:
    """Stacked, by way of bytes: torch joins no FP8."""
    return torch.cat([part.view(torch.uint8) if part.itemsize == 1 else part for part in parts]).view(parts[0].dtype)


def _outer(part: Stored) -> Tensor:
    return torch.ones(len(part.scales_OG)) if part.outer_O is None else part.outer_O


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _block_fp8(w: BlockFp8) -> Stored:
    height, width = w.block
    scales_OC = w.scales_BC.repeat_interleave(height, 0)[: w.shape[0]]
    return Stored(Format.FP8, width, (_numbers_only(w.values_OI),), scales_OC)


def _scaled_fp8(w: ScaledFp8) -> Stored:
    return Stored(Format.FP8, w.shape[1], (_numbers_only(w.values_OI),), w.scales_R1.expand(w.shape[0], 1))


def _int8_channel(w: Int8Channel) -> Stored:
    return Stored(Format.INT8, w.shape[1], (w.values_OI,), w.scales_R1.expand(w.shape[0], 1))


def _int8_groups(w: Int8Groups) -> Stored:
    return Stored(Format.INT8, w.group, (w.codes_OI,), w.scales_OG)


def _int4_groups(w: Int4Groups) -> Stored:
    places_I = None if w.order_I is None else torch.argsort(w.order_I).int()
    return Stored(Format.INT4, w.group, (w.codes_OP,), w.scales_OG, zeros_OG=w.zeros_OG, places_I=places_I)


def _mxfp4(w: Mxfp4) -> Stored:
    return Stored(Format.FP4, mxfp4.GROUP, (w.blocks_OGH.flatten(1),), w.scales_OG)


def _nvfp4(w: Nvfp4) -> Stored:
    return Stored(Format.FP4, nvfp4.GROUP, (w.packed_OH,), w.scales_OG, outer_O=w.scale_1.expand(w.shape[0]))


def _numbers_only(values_OI: Tensor) -> Tensor:
    """FP8 values, of which none is NaN: the kernels decode without looking for it."""
    if int((values_OI.view(torch.uint8) & 0x7F).max()) == 0x7F:
        raise UnsupportedError("some of its FP8 values are NaN")
    return values_OI


FORMATS: dict[type[Quantized], Callable[..., Stored]] = {
    BlockFp8: _block_fp8,
    ScaledFp8: _scaled_fp8,
    Int8Channel: _int8_channel,
    Int8Groups: _int8_groups,
    Int4Groups: _int4_groups,
    Mxfp4: _mxfp4,
    Nvfp4: _nvfp4,
}
