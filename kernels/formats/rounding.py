"""Float matrices rounded to INT4 and INT8 groups, for weights that are quantized when they are loaded.

Symmetric: the lowest code, -8 or -128, stands for the value of a group that is largest in size, sign included, so that
a scale may be negative and no code is left unused. Source of that choice: Q4_0 of the GGUF format
(https://github.com/ggml-org/ggml). For INT4 the scale is then the best of `CLIPS` times that, by squared error, and
fitted to its codes by least squares.

Relative error of normal weights in groups of 32 and 128, and the search's speed on one thread of a busy Zen 5: largest
/ 7 in place of / -8 0.097, 0.117; as Q4_0 0.086, 0.103; fitted 0.085, 0.102 (300 M weights a second); with the clips
too 0.083, 0.098 (190 M; 110 M with all else that `int4_of` does); with six clips 0.082, 0.097 (120 M). For INT8 no
choice changes its 0.0056 and 0.0067 by more than 3%; it takes the first scale, 270 M weights a second.
Legend: O outputs (rows), I inputs (columns), G groups along I, C inputs of a group, R rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.formats.groups import groups_of
from kernels.formats.int4_groups import MIDDLE, Int4Groups
from kernels.formats.int8_groups import Int8Groups
from kernels.formats.nibbles import packed_nibbles

CLIPS = (1.0, 0.9, 0.8)
# The size of the lowest INT8 code.
HALF8 = 128
# Weights at a time: one thread is fastest where a few float32 copies of them stay in the L2 cache, several where waking
# them for each operation does not count.
_ELEMENTS = 1 << 17
_ELEMENTS_SHARED = 1 << 20
# Scales below it, whose inverse may be infinite, become zero.
_LEAST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Rounding:
    """What float matrices become when they are loaded: INT8 or INT4 in groups of `group` inputs."""

    form: Literal["int8", "int4"]
    group: int

    def __str__(self) -> str:
        """As in logs and errors."""
        return f"{self.form} in groups of {self.group}"

    def of(self, w_OI: Tensor) -> Int4Groups | Int8Groups:
        """Round a matrix; see `int4_of`."""
        return (int4_of if self.form == "int4" else int8_of)(w_OI, self.group)

    def nbytes(self, shape: tuple[int, int]) -> int:
        """Bytes of a rounded matrix [O, I]."""
        kind = Int4Groups if self.form == "int4" else Int8Groups
        return kind.empty(shape, torch.bfloat16, "meta", group=self.group).nbytes


def int4_of(w_OI: Tensor, group: int) -> Int4Groups:
    """Round a matrix (bfloat16, float16 or float32, on any device) to INT4 in groups; it decodes to the same dtype.

    Scales are in bfloat16. Raises ValueError for an empty matrix or group, and for values that are not finite.
    """
    made = Int4Groups.empty(_shape(w_OI), w_OI.dtype, w_OI.device, group=group)
    for start, end, values_RGC in _pieces(w_OI, group):
        scales_RG1 = _best_scales(values_RGC)
        codes_RGC = _codes(values_RGC, scales_RG1, MIDDLE)
        made.scales_OG[start:end] = _finite(_fitted(values_RGC, codes_RGC)).squeeze(2)
        codes_RI = codes_RGC.add_(MIDDLE).flatten(1)[:, : made.inputs].to(torch.uint8)
        made.codes_OP[start:end] = packed_nibbles(codes_RI)
    return made


def int8_of(w_OI: Tensor, group: int) -> Int8Groups:
    """As `int4_of`, to INT8."""
    made = Int8Groups.empty(_shape(w_OI), w_OI.dtype, w_OI.device, group=group)
    for start, end, values_RGC in _pieces(w_OI, group):
        scales_RG1 = _finite(_widest_scales(values_RGC, HALF8))
        made.scales_OG[start:end] = scales_RG1.squeeze(2)
        made.codes_OI[start:end] = _codes(values_RGC, scales_RG1, HALF8).flatten(1)[:, : w_OI.shape[1]]
    return made


def _shape(w_OI: Tensor) -> tuple[int, int]:
    outputs, inputs = w_OI.shape
    return outputs, inputs


def _pieces(w_OI: Tensor, group: int) -> Iterator[tuple[int, int, Tensor]]:
    """Rows start..end-1 in float32, in groups; zeros fill the last group, and no scale sees the difference."""
    outputs, inputs = w_OI.shape
    most = _ELEMENTS if torch.get_num_threads() == 1 else _ELEMENTS_SHARED
    groups, rows = groups_of(inputs, group), max(1, most // inputs)
    for start in range(0, outputs, rows):
        end = min(outputs, start + rows)
        values_RI = pad(w_OI[start:end].float(), (0, groups * group - inputs))
        yield start, end, values_RI.reshape(end - start, groups, group)


def _best_scales(values_RGC: Tensor) -> Tensor:
    """Of each group the scale [R, G, 1] that leaves the smallest squared error."""
    widest = best = _widest_scales(values_RGC, MIDDLE)
    least = _squared_error(values_RGC, best)
    for clip in CLIPS[1:]:
        scales = _rounded(widest * clip)
        error = _squared_error(values_RGC, scales)
        best, least = torch.where(error < least, scales, best), torch.minimum(error, least)
    return best


def _widest_scales(values_RGC: Tensor, half: int) -> Tensor:
    """Scales by which the value that is largest in size has code -half."""
    lowest, highest = values_RGC.aminmax(dim=2, keepdim=True)
    return _rounded(torch.where(highest > -lowest, highest, lowest) / -half)


def _fitted(values_RGC: Tensor, codes_RGC: Tensor) -> Tensor:
    """The scale that leaves the smallest squared error with these codes; 0 where all are."""
    squares = codes_RGC.square().sum(2, keepdim=True)
    return _rounded((values_RGC * codes_RGC).sum(2, keepdim=True) / squares.clamp_(min=1))


def _rounded(scales: Tensor) -> Tensor:
    """As they will be stored, in bfloat16: codes must be chosen by those."""
    return scales.bfloat16().float().masked_fill_(scales.abs() < _LEAST, 0)


def _codes(values_RGC: Tensor, scales_RG1: Tensor, half: int) -> Tensor:
    inverse = torch.where(scales_RG1 == 0, 0, 1 / scales_RG1)
    return (values_RGC * inverse).round_().clamp_(-half, half - 1)


def _squared_error(values_RGC: Tensor, scales_RG1: Tensor) -> Tensor:
    decoded = _codes(values_RGC, scales_RG1, MIDDLE).mul_(scales_RG1)
    return decoded.sub_(values_RGC).square_().sum(2, keepdim=True)


def _finite(scales: Tensor) -> Tensor:
    """The scales, after a look: any value of the matrix that is not finite makes one so."""
    if not scales.isfinite().all():
        raise ValueError("a matrix with values that are not finite cannot be quantized: set weights.quantize to none")
    return scales
