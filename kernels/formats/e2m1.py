"""FP4 values (E2M1: 1 sign, 2 exponent, 1 mantissa bit), two a byte, the low four bits being the earlier one.

Source: OCP Microscaling Formats (MX) Specification v1.0, section 5.3.3.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kernels.formats.quantized import Scratch

# Of codes 0..7; codes 8..15 are their negatives.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def scaled(packed: Tensor, scales_G: Tensor, scratch: Scratch) -> Tensor:
    """Contiguous bytes, each group of values times its float32 scale, in one row in `scratch`.

    Measured on Zen 5, bfloat16 [2048, 1024] with 32 values a scale, one thread, rounding included: two values at once
    from a table by their byte 1.3 GB/s of packed bytes (1.1 in `dense` of [4096, 1024], 1.2 on two threads); shifting
    and masking them into bfloat16 0.7; four bfloat16 at once from a table by two bytes 1.5, but for that dtype only.
    """
    index_P = scratch.index_N[: packed.numel()].copy_(packed.view(-1))
    wide_N = scratch.wide_N[: 2 * len(index_P)]
    torch.index_select(_pairs(packed.device), 0, index_P, out=wide_N.view(torch.int64))
    wide_N.view(len(scales_G), -1).mul_(scales_G[:, None])
    return wide_N


@cache
def _pairs(device: torch.device) -> Tensor:
    """The two float32 values of a byte, as one int64."""
    values = torch.tensor([*E2M1, *(-value for value in E2M1)])  # the high bit of a code is the sign
    byte = torch.arange(256)
    return torch.stack((values[byte & 15], values[byte >> 4]), 1).view(torch.int64).view(-1).to(device)
