"""The product of two tiles as every kernel here computes it."""

from __future__ import annotations

import triton
import triton.language as tl

# The interpreter's tl.dot on bfloat16 tiles is silently wrong: there, and only there, tiles are widened first.
INTERPRETED = bool(triton.knobs.runtime.interpret)


@triton.jit  # type: ignore[untyped-decorator]
def dot(a: tl.tensor, b: tl.tensor, total: tl.tensor, INTERPRETED: tl.constexpr) -> tl.tensor:
    """total + a b, summed in float32; a and b share a dtype."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    # Not tf32, the default: float32 weights would lose 13 bits of their mantissa.
    return tl.dot(a, b, total, input_precision="ieee")
