"""Scales and zero points in the order of panels, [P][G][32], in the smallest dtype that holds them exactly.

O outputs, G groups, P panels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.native.structs import HALF, PANEL, Scale

KINDS = {torch.float32: Scale.F32, torch.bfloat16: Scale.BF16, torch.float16: Scale.F16}


def panel_rows(outputs: int, gate_up: bool) -> Tensor:
    """The row of each place in the panels, [P * 32]; places behind the last row repeat it."""
    rows = outputs // 2 if gate_up else outputs
    lanes = HALF if gate_up else PANEL
    row_PL = torch.arange(-(-rows // lanes) * lanes).clamp_(max=rows - 1).view(-1, lanes)
    return (torch.cat((row_PL, row_PL + rows), 1) if gate_up else row_PL).flatten()


def in_panels(of_rows_OG: Tensor, rows_N: Tensor) -> Tensor:
    """[P, G, 32] of [O, G]."""
    if of_rows_OG.itemsize == 1:
        return in_panels(of_rows_OG.view(torch.uint8).short(), rows_N).to(torch.uint8)
    return of_rows_OG[rows_N].view(-1, PANEL, of_rows_OG.shape[1]).transpose(1, 2).contiguous()


def scales_in_panels(scales_OG: Tensor, outer_O: Tensor | None, rows_N: Tensor) -> tuple[Scale, Tensor, Tensor | None]:
    """(What they are, the scales [P, G, 32] or [P, G, 2], what multiplies them [P, 2] or None)."""
    if scales_OG.dtype == torch.uint8:
        if 0 < int(scales_OG.min()) <= int(scales_OG.max()) < 0xFF:
            return Scale.E8M0, in_panels(scales_OG, rows_N), None
        return Scale.F32, in_panels(_powers(scales_OG), rows_N), None
    if outer_O is not None:
        outer_P2 = _of_halves(outer_O[rows_N].view(-1, 1, PANEL))
        if outer_P2 is None:  # matrices that meet within 16 outputs
            return Scale.F32, in_panels(scales_OG.float() * outer_O[:, None], rows_N), None
        if bool(scales_OG.float().isnan().any()):
            return Scale.F32, in_panels(scales_OG.float(), rows_N), outer_P2.view(-1, 2)
        return Scale.E4M3, in_panels(scales_OG, rows_N), outer_P2.view(-1, 2)
    scales_PGL = in_panels(scales_OG, rows_N)
    if scales_OG.dtype == torch.float32:
        if (halves_PG2 := _of_halves(scales_PGL)) is not None:
            return Scale.HALVES, halves_PG2, None
        scales_PGL = _smallest(scales_PGL)
    return KINDS[scales_PGL.dtype], scales_PGL, None


def _powers(codes_OG: Tensor) -> Tensor:
    """E8M0 as float32; 255 is NaN, 0 the denormal 2**-127."""
    powers_OG = (codes_OG.int() << 23).view(torch.float32)
    return powers_OG.masked_fill_(codes_OG == 0, 2.0**-127).masked_fill_(codes_OG == 0xFF, torch.nan)


def _of_halves(of_lanes_PGL: Tensor) -> Tensor | None:
    """[P, G, 2] where 16 outputs have one number each, else None."""
    halves_PG2H = of_lanes_PGL.view(*of_lanes_PGL.shape[:2], 2, HALF)
    firsts_PG2 = halves_PG2H[..., 0].contiguous()
    return firsts_PG2 if _equal(halves_PG2H, firsts_PG2[..., None]) else None


def _smallest(scales: Tensor) -> Tensor:
    for dtype in (torch.bfloat16, torch.float16):
        if _equal(scales, smaller := scales.to(dtype)):
            return smaller
    return scales


def _equal(a: Tensor, b: Tensor) -> bool:
    """Number for number; NaN is like NaN."""
    return bool(((a == b) | (a.isnan() & b.isnan())).all())
