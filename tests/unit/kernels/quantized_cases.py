"""Quantized matrices for the tests, and what they mean, worked out bit by bit in float64.

Legend: O outputs (rows), I inputs (columns), G groups of 32 inputs, H bytes of a group, E experts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.mxfp4 import Mxfp4
from kernels.formats.quantized import Quantized, RowStack
from tests.unit.kernels.kernel_cases import Case

FORMATS = ("fp8", "mxfp4")


def fp8_values(codes: np.ndarray) -> np.ndarray:
    """E4M3, as its definition says: 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinity; all ones are NaN."""
    exponent, mantissa = (codes >> 3 & 15).astype(int), (codes & 7) / 8
    size = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7))
    size = np.where(codes & 127 == 127, np.nan, size)
    return np.where(codes & 128, -size, size)


def fp8_exact(w: BlockFp8) -> Tensor:
    """The matrix in float64."""
    height, width = w.block
    row_block, column_block = np.arange(w.shape[0]) // height, np.arange(w.shape[1]) // width
    scales = w.scales_BC.numpy().astype(np.float64)[row_block][:, column_block]
    return torch.from_numpy(fp8_values(w.values_OI.view(torch.uint8).numpy()) * scales)


def mxfp4_exact(w: Mxfp4) -> Tensor:
    """The matrix in float64: 1 sign, 2 exponent (bias 1), 1 mantissa bit, the low half of a byte first."""
    blocks = w.blocks_OGH.numpy()
    codes = np.stack((blocks & 15, blocks >> 4), axis=-1).reshape(*blocks.shape[:2], 32)
    exponent, mantissa = (codes >> 1 & 3).astype(int), (codes & 1) / 2
    size = np.where(exponent == 0, mantissa, (1 + mantissa) * 2.0 ** (exponent - 1))
    scales = w.scales_OG.numpy().astype(int)
    power = np.where(scales == 255, np.nan, 2.0 ** (scales - 127))
    return torch.from_numpy((np.where(codes & 8, -size, size) * power[:, :, None]).reshape(w.shape))


def exact(w: Quantized) -> Tensor:
    """Any of them in float64."""
    if isinstance(w, RowStack):
        return torch.cat([exact(part) for part in w.parts])
    return fp8_exact(w) if isinstance(w, BlockFp8) else mxfp4_exact(w)


def any_fp8(shape: tuple[int, int], dtype: torch.dtype, seed: int, block: tuple[int, int] = (128, 128)) -> BlockFp8:
    """Any codes, NaN among them, and scales over the whole range of float32."""
    rng, w = np.random.default_rng(seed), BlockFp8.empty(shape, dtype, block=block)
    w.values_OI.view(torch.uint8).copy_(torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)))
    scales = np.ldexp(1 + rng.random(w.scales_BC.shape), rng.integers(-140, 128, w.scales_BC.shape))
    w.scales_BC.copy_(torch.from_numpy(scales.astype(np.float32)))
    return w


def any_mxfp4(shape: tuple[int, int], dtype: torch.dtype, seed: int) -> Mxfp4:
    """Any bytes and any scales, 255 among them."""
    rng, w = np.random.default_rng(seed), Mxfp4.empty(shape, dtype)
    for packed in (w.blocks_OGH, w.scales_OG):
        packed.copy_(torch.from_numpy(rng.integers(0, 256, tuple(packed.shape), dtype=np.uint8)))
    return w


def near_one(w_OI: Tensor, form: str) -> Quantized:
    """A matrix like `w_OI`, rounded to a format, on its device, decoding to its dtype."""
    outputs, inputs = w_OI.shape
    if form == "fp8":
        w = BlockFp8.empty((outputs, inputs), w_OI.dtype, w_OI.device, block=(16, 16))
        w.scales_BC.copy_(0.5 + torch.rand(w.scales_BC.shape, generator=torch.Generator().manual_seed(outputs)))
        w.values_OI.copy_(w_OI)
        return w
    packed = Mxfp4.empty((outputs, inputs), w_OI.dtype, w_OI.device)
    codes = (w_OI.float().abs() * 4).round().clamp(max=7).to(torch.uint8) | (w_OI < 0).to(torch.uint8) << 3
    packed.blocks_OGH.copy_((codes[:, ::2] | codes[:, 1::2] << 4).view(packed.blocks_OGH.shape))
    packed.scales_OG.copy_(torch.arange(packed.scales_OG.numel()).view(packed.scales_OG.shape) % 3 + 124)
    return packed


def quantize(matrices_EOI: Tensor, form: str) -> tuple[Quantized, ...]:
    """E matrices; as a gate over an up, each with its own scales, where the rows are even in number."""
    if matrices_EOI.shape[1] % 2:
        return tuple(near_one(w, form) for w in matrices_EOI)
    return tuple(RowStack(tuple(near_one(half, form) for half in w.chunk(2))) for w in matrices_EOI)


def quantized_case(case: Case, form: str) -> Case:
    """The case, with whole groups of 32 where the format wants them."""
    return replace(case, hidden=64, ffn=32) if form == "mxfp4" else case
