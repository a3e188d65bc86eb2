"""Where the packed matrices of a layer's experts lie, as a kernel can read it: made once, when weights are prepared.

Legend: E experts, P parts of a matrix, O outputs (rows), I inputs (columns).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.mxfp4 import GROUP, Mxfp4
from kernels.formats.quantized import Quantized, RowStack
from kernels.formats.scaled import ScaledFp8
from kernels.weights import Matrices

# Places of values are counted in these, see `packed_kernels`.
UNIT = 16
# What tl.dot sums over at least.
_LEAST_DEPTH = 16

Part = BlockFp8 | Mxfp4 | ScaledFp8


@dataclass(frozen=True, eq=False)
class PackedTable:
    """E matrices of P equal parts of `part_rows` rows each, in one format.

    `places_EP2` int64: how far a part's values lie behind those of the first part of all, in UNITs, and how far its
    scales do, in elements; it does not own them. `row_bytes` of the values; a scale is for `block` (rows, columns).
    """

    mxfp4: bool
    values: Tensor
    scales: Tensor
    places_EP2: Tensor
    part_rows: int
    row_bytes: int
    scale_columns: int
    block: tuple[int, int]

    @property
    def parts(self) -> int:
        """P."""
        return self.places_EP2.shape[1]

    @property
    def depth(self) -> int:
        """How many bytes of a row a step may take at most where each has one scale, as in FP8."""
        return self.block[1] & -self.block[1]


def table_of(matrices: Matrices) -> PackedTable | None:
    """The table of matrices that one kernel call can read; None if they are dense, mixed, or in a form without one."""
    if isinstance(matrices, Tensor):
        return None
    split = [_parts(w) for w in matrices]
    parts = [part for of_matrix in split for part in of_matrix]
    if not parts or any(len(of_matrix) != len(split[0]) for of_matrix in split) or not _alike(parts):
        return None
    stored = [_stored(part) for part in parts]
    values, scales = stored[0]
    places = [((v.data_ptr() - values.data_ptr()) // UNIT, (s.data_ptr() - scales.data_ptr()) // s.itemsize)
              for v, s in stored]  # fmt: skip
    return PackedTable(
        isinstance(parts[0], Mxfp4), values, scales,
        torch.tensor(places, device=values.device).view(len(matrices), len(split[0]), 2),
        parts[0].shape[0], values.shape[1], scales.shape[1], _block(parts[0]),
    )  # fmt: skip


def _parts(w: Tensor | Quantized) -> tuple[Part, ...]:
    """What lies one above the other; nothing if any of it is in another form."""
    whole = w.parts if isinstance(w, RowStack) else (w,)
    return tuple(part for part in whole if isinstance(part, Part)) if all(isinstance(p, Part) for p in whole) else ()


def _alike(parts: list[Part]) -> bool:
    """Whether one call can read them all: equal in form, and where wide loads are allowed."""
    kinds = {(type(part), part.shape, part.device, _block(part)) for part in parts}
    aligned = all(values.data_ptr() % UNIT == 0 and scales.data_ptr() % scales.itemsize == 0
                  for values, scales in map(_stored, parts))  # fmt: skip
    return len(kinds) == 1 and aligned and _block(parts[0])[1] % _LEAST_DEPTH == 0


def _stored(part: Part) -> tuple[Tensor, Tensor]:
    """Values as bytes [O, bytes of a row], and scales [blocks of rows, blocks of columns]."""
    if isinstance(part, Mxfp4):
        return part.blocks_OGH.flatten(1), part.scales_OG
    return part.values_OI.view(torch.uint8), part.scales_R1 if isinstance(part, ScaledFp8) else part.scales_BC


def _block(part: Part) -> tuple[int, int]:
    if isinstance(part, Mxfp4):
        return 1, GROUP
    if isinstance(part, ScaledFp8):  # one block for each row, or one for all
        return part.shape[0] // len(part.scales_R1), part.shape[1]
    return part.block
