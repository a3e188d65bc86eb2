"""The Triton kernels of the expert FFN over packed weights, which `kernels.triton.packed` launches.

As those of `ffn_kernels`, with tiles of weights decoded in registers. Legend: C output columns of a tile, K bytes of a
step (elements in FP8, pairs of elements in MXFP4).
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton.decode import e8m0_values, fp4_values, fp8_values, spread
from kernels.triton.dot import dot
from kernels.triton.ffn_kernels import activate, bias_row, find_tile


@triton.jit  # type: ignore[untyped-decorator]
def _columns(
    values_ptr: tl.tensor, scales_ptr: tl.tensor, places_ptr: tl.tensor, expert: tl.tensor, o: tl.tensor,
    inside: tl.tensor, parts: tl.tensor, part_rows: tl.tensor, row_bytes: tl.tensor, block_height: tl.tensor,
    scale_columns: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """Where the values and the scales of an expert's output columns begin."""
    place = places_ptr + (expert * parts + o // part_rows) * 2
    row = (o % part_rows).to(tl.int64)
    # Places are counted in 16 bytes, so that the compiler knows that loads may be as wide.
    values = values_ptr + tl.load(place, mask=inside, other=0) * 16 + row * row_bytes
    scales = scales_ptr + tl.load(place + 1, mask=inside, other=0) + row // block_height * scale_columns
    return values, scales


@triton.jit  # type: ignore[untyped-decorator]
def _step(
    total: tl.tensor, x: tl.tensor, x_odd: tl.tensor, values: tl.tensor, scales: tl.tensor, inside: tl.tensor,
    start: tl.tensor, row_bytes: tl.tensor, block_width: tl.tensor,
    MXFP4: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, NATIVE: tl.constexpr,
    INTERPRETED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """total + x w for K bytes of each of C columns."""
    k = start + tl.arange(0, BLOCK_K)
    mask = inside[:, None] & (k < row_bytes)[None, :]
    codes = tl.load(values[:, None] + k[None, :], mask=mask, other=0)
    if MXFP4:
        group = start // 16 + tl.arange(0, BLOCK_K // 16)
        within = inside[:, None] & (group * 16 < row_bytes)[None, :]
        powers = e8m0_values(tl.load(scales[:, None] + group[None, :], mask=within, other=0))
        scale = spread(powers, BLOCK_C, BLOCK_K)
        even = (fp4_values(codes & 15) * scale).to(x.dtype)
        odd = (fp4_values(codes >> 4) * scale).to(x.dtype)
        total = dot(x, tl.trans(even), total, INTERPRETED)
        total = dot(x_odd, tl.trans(odd), total, INTERPRETED)
    else:
        # One scale for the whole step of a column: it multiplies the sum, and no weight is rounded.
        w = fp8_values(codes, NATIVE).to(x.dtype)
        scale = tl.load(scales + start // block_width, mask=inside, other=0.0)
        total += dot(x, tl.trans(w), tl.zeros_like(total), INTERPRETED) * scale[None, :]
    return total


@triton.jit  # type: ignore[untyped-decorator]
def packed_gate_up_kernel(
    x_ptr: tl.tensor, values_ptr: tl.tensor, scales_ptr: tl.tensor, places_ptr: tl.tensor, bias_ptr: tl.tensor,
    token_ptr: tl.tensor, weight_ptr: tl.tensor, offsets_ptr: tl.tensor, h_ptr: tl.tensor,
    experts: tl.tensor, hidden: tl.tensor, ffn: tl.tensor, parts: tl.tensor, part_rows: tl.tensor,
    row_bytes: tl.tensor, scale_columns: tl.tensor, block_height: tl.tensor, block_width: tl.tensor,
    alpha: tl.tensor, limit: tl.tensor,
    MXFP4: tl.constexpr, CLAMPED: tl.constexpr, WEIGHTED: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr,
    NATIVE: tl.constexpr, INTERPRETED: tl.constexpr,
) -> None:  # fmt: skip
    """As `ffn_kernels.gate_up_kernel`. With MXFP4, a row of x has its even columns first, then the odd ones."""
    expert, first, end = find_tile(offsets_ptr, experts, BLOCK_M, BLOCK_E)
    if first >= end:
        return
    rows = first + tl.arange(0, BLOCK_M)
    f = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    inside = f < ffn
    gate_values, gate_scales = _columns(values_ptr, scales_ptr, places_ptr, expert, f, inside, parts, part_rows,
                                        row_bytes, block_height, scale_columns)  # fmt: skip
    up_values, up_scales = _columns(values_ptr, scales_ptr, places_ptr, expert, ffn + f, inside, parts, part_rows,
                                    row_bytes, block_height, scale_columns)  # fmt: skip
    token = tl.load(token_ptr + rows, mask=rows < end, other=0)
    if WEIGHTED:
        weight = tl.load(weight_ptr + rows, mask=rows < end, other=0.0)[:, None]
    x_tile = x_ptr + token[:, None] * hidden + k[None, :]
    gate = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for start in range(0, row_bytes, BLOCK_K):
        x_mask = (rows < end)[:, None] & (start + k < row_bytes)[None, :]
        x = tl.load(x_tile + start, mask=x_mask, other=0.0)
        x_odd = x
        if MXFP4:
            x_odd = tl.load(x_tile + row_bytes + start, mask=x_mask, other=0.0)
        if WEIGHTED:
            x = (x.to(tl.float32) * weight).to(x_ptr.dtype.element_ty)
            x_odd = (x_odd.to(tl.float32) * weight).to(x_ptr.dtype.element_ty)
        gate = _step(gate, x, x_odd, gate_values, gate_scales, inside, start, row_bytes, block_width,
                     MXFP4, BLOCK_C, BLOCK_K, NATIVE, INTERPRETED)  # fmt: skip
        up = _step(up, x, x_odd, up_values, up_scales, inside, start, row_bytes, block_width,
                   MXFP4, BLOCK_C, BLOCK_K, NATIVE, INTERPRETED)  # fmt: skip
    if BIASED:
        gate += bias_row(bias_ptr + expert * 2 * ffn, f, ffn)
        up += bias_row(bias_ptr + expert * 2 * ffn + ffn, f, ffn)
    h = activate(gate, up, alpha, limit, CLAMPED)
    mask = (rows < end)[:, None] & inside[None, :]
    tl.store(h_ptr + rows[:, None] * ffn + f[None, :], h.to(h_ptr.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def packed_down_kernel(
    h_ptr: tl.tensor, values_ptr: tl.tensor, scales_ptr: tl.tensor, places_ptr: tl.tensor, bias_ptr: tl.tensor,
    weight_ptr: tl.tensor, offsets_ptr: tl.tensor, y_ptr: tl.tensor,
    experts: tl.tensor, hidden: tl.tensor, ffn: tl.tensor, parts: tl.tensor, part_rows: tl.tensor,
    row_bytes: tl.tensor, scale_columns: tl.tensor, block_height: tl.tensor, block_width: tl.tensor,
    MXFP4: tl.constexpr, WEIGHTED: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr,
    NATIVE: tl.constexpr, INTERPRETED: tl.constexpr,
) -> None:  # fmt: skip
    """As `ffn_kernels.down_kernel`. With MXFP4, a row of h has its even columns first, then the odd ones."""
    expert, first, end = find_tile(offsets_ptr, experts, BLOCK_M, BLOCK_E)
    if first >= end:
        return
    rows = first + tl.arange(0, BLOCK_M)
    d = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    k = tl.arange(0, BLOCK_K)
    inside = d < hidden
    values, scales = _columns(values_ptr, scales_ptr, places_ptr, expert, d, inside, parts, part_rows,
                              row_bytes, block_height, scale_columns)  # fmt: skip
    h_tile = h_ptr + rows[:, None] * ffn + k[None, :]
    y = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for start in range(0, row_bytes, BLOCK_K):
        h_mask = (rows < end)[:, None] & (start + k < row_bytes)[None, :]
        h = tl.load(h_tile + start, mask=h_mask, other=0.0)
        h_odd = h
        if MXFP4:
            h_odd = tl.load(h_tile + row_bytes + start, mask=h_mask, other=0.0)
        y = _step(y, h, h_odd, values, scales, inside, start, row_bytes, block_width,
                  MXFP4, BLOCK_C, BLOCK_K, NATIVE, INTERPRETED)  # fmt: skip
    if BIASED:
        y += bias_row(bias_ptr + expert * hidden, d, hidden)
    if WEIGHTED:
        y = y * tl.load(weight_ptr + rows, mask=rows < end, other=0.0)[:, None]
    mask = (rows < end)[:, None] & inside[None, :]
    tl.store(y_ptr + rows[:, None] * hidden + d[None, :], y, mask=mask)
