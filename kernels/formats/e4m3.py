"""FP8 values (E4M3: 1 sign, 4 exponent, 3 mantissa bits, no infinity) in float32.

Source: Micikevicius et al. 2022, FP8 Formats for Deep Learning (arXiv 2209.05433).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kernels.formats.quantized import Scratch


def widened(values_MI: Tensor, scratch: Scratch) -> Tensor:
    """Contiguous values in float32, in `scratch`. Measured on Zen 5, bfloat16 [2048, 1024], one thread, scaling and
    rounding included.

    Two values at once from a table: 2.5 GB/s of packed bytes (1.9 in `dense` of [4096, 1024], 2.0 on two threads);
    two bfloat16 from a table, then widened, 2.2; torch's own conversion 0.37. Moving the bits to where float16 has
    them, after a look for NaN codes, makes a product 10% faster with one thread and up to 25% slower with two.
    """
    wide_MI = scratch.wide_N[: values_MI.numel()].view(values_MI.shape)
    # A view as uint16 needs pairs that do not cross rows and begin at an even byte.
    even = values_MI.shape[1] % 2 == 0 and values_MI.storage_offset() % 2 == 0
    if not (even and values_MI.is_cpu):
        return wide_MI.copy_(values_MI)
    index_P = scratch.index_N[: values_MI.numel() // 2].copy_(values_MI.view(-1).view(torch.uint16))
    torch.index_select(_pairs(), 0, index_P, out=wide_MI.view(-1).view(torch.int64))
    return wide_MI


@cache
def values(device: torch.device) -> Tensor:
    """The float32 values of the 256 codes."""
    return torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().to(device)


@cache
def _pairs() -> Tensor:
    """For each two codes, as one uint16, their two float32 values as one int64: half a MiB."""
    codes = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16)
    return codes.view(torch.float8_e4m3fn).float().view(torch.int64)
