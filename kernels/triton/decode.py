"""Tiles of packed weights, decoded in registers on the way to the product.

Sources: FP8 E4M3 as in OCP 8-bit Floating Point Specification 1.0; MXFP4 as in OCP Microscaling Formats (MX) 1.0.
Legend: C output columns of a tile, K bytes of a step, G groups of 16 bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def fp8_values(codes: tl.tensor, NATIVE: tl.constexpr) -> tl.tensor:
    """E4M3 codes (uint8) as float32: exact, NaN included. NATIVE where the device converts them, from sm_89 on."""
    if NATIVE:
        values = codes.to(tl.float8e4nv, bitcast=True).to(tl.float16).to(tl.float32)
    else:
        # Where float16 has its exponent and mantissa the bits are the value over 2^8: the biases are 7 and 15.
        bits = codes.to(tl.uint16)
        half = ((bits & 0x80) << 8 | (bits & 0x7F) << 7).to(tl.float16, bitcast=True)
        values = tl.where((bits & 0x7F) == 0x7F, float("nan"), half.to(tl.float32) * 256.0)
    return values


@triton.jit  # type: ignore[untyped-decorator]
def fp4_values(codes: tl.tensor) -> tl.tensor:
    """E2M1 codes in the low four bits of uint8 as float32, exact."""
    # As above: the bits are the value over 2^14, for the biases are 1 and 15.
    bits = codes.to(tl.uint16)
    half = ((bits & 8) << 12 | (bits & 7) << 9).to(tl.float16, bitcast=True)
    return half.to(tl.float32) * 16384.0


@triton.jit  # type: ignore[untyped-decorator]
def e8m0_values(codes: tl.tensor) -> tl.tensor:
    """Powers of two (uint8, bias 127) as float32; 255 is NaN and 0 is 2^-127, which float32 has among its denormals."""
    bits = codes.to(tl.int32)
    power = tl.where(bits == 0, 1 << 22, bits << 23).to(tl.float32, bitcast=True)
    return tl.where(bits == 255, float("nan"), power)


@triton.jit  # type: ignore[untyped-decorator]
def spread(scales: tl.tensor, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr) -> tl.tensor:
    """A group's scale for each of its 16 bytes: [C, G] to [C, K]."""
    wide = tl.broadcast_to(scales[:, :, None], (BLOCK_C, BLOCK_K // 16, 16))
    return tl.reshape(wide, (BLOCK_C, BLOCK_K))
