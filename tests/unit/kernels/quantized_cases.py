"""Quantized matrices for the tests, and what they mean, worked out bit by bit in float64.

Legend: O outputs (rows), I inputs (columns), G groups of inputs, H bytes of a group or a row, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.int4_groups import Int4Groups
from kernels.formats.int8_groups import Int8Groups
from kernels.formats.mxfp4 import Mxfp4
from kernels.formats.nvfp4 import Nvfp4
from kernels.formats.quantized import Quantized, RowStack
from kernels.formats.scaled import Int8Channel, ScaledFp8
from tests.unit.kernels.integer_cases import any_int4, any_int8, int4_exact, int8_exact, near_one_integer
from tests.unit.kernels.kernel_cases import Case

W = TypeVar("W", ScaledFp8, Int8Channel)

# How many inputs a row's groups have, by the names of the formats in the tests.
GROUPS = {"fp8": 1, "mxfp4": 32, "nvfp4": 16, "scaled_fp8": 1, "fp8_tensor": 1, "int8": 1}
GROUPS |= {"int4": 1, "int4_ordered": 1, "int8_groups": 1}
FORMATS = tuple(GROUPS)


def fp8_values(codes: np.ndarray) -> np.ndarray:
    """E4M3, as its definition says: 1 sign, 4 exponent (bias 7), 3 mantissa bits; no infinity; all ones are NaN."""
    exponent, mantissa = (codes >> 3 & 15).astype(int), (codes & 7) / 8
    size = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7))
    size = np.where(codes & 127 == 127, np.nan, size)
    return np.where(codes & 128, -size, size)


def fp4_values(packed: np.ndarray) -> np.ndarray:
    """E2M1: 1 sign, 2 exponent (bias 1), 1 mantissa bit, the low half of a byte first; the last dimension doubles."""
    codes = np.stack((packed & 15, packed >> 4), axis=-1).reshape(*packed.shape[:-1], -1)
    exponent, mantissa = (codes >> 1 & 3).astype(int), (codes & 1) / 2
    size = np.where(exponent == 0, mantissa, (1 + mantissa) * 2.0 ** (exponent - 1))
    return np.where(codes & 8, -size, size)


def fp8_exact(w: BlockFp8) -> Tensor:
    """The matrix in float64."""
    height, width = w.block
    row_block, column_block = np.arange(w.shape[0]) // height, np.arange(w.shape[1]) // width
    scales = w.scales_BC.numpy().astype(np.float64)[row_block][:, column_block]
    return torch.from_numpy(fp8_values(bytes_of(w.values_OI)) * scales)


def mxfp4_exact(w: Mxfp4) -> Tensor:
    """The matrix in float64."""
    scales = w.scales_OG.numpy().astype(int)
    power = np.where(scales == 255, np.nan, 2.0 ** (scales - 127))
    return torch.from_numpy((fp4_values(w.blocks_OGH.numpy()) * power[:, :, None]).reshape(w.shape))


def nvfp4_exact(w: Nvfp4) -> Tensor:
    """The matrix in float64, where no product of a value and its scales is rounded."""
    scales = np.repeat(fp8_values(bytes_of(w.scales_OG)), 16, axis=1)
    return torch.from_numpy(fp4_values(w.packed_OH.numpy()) * scales * w.scale_1.double().item())


def scaled_exact(w: ScaledFp8 | Int8Channel) -> Tensor:
    """The matrix in float64."""
    values = w.values_OI.double() if isinstance(w, Int8Channel) else torch.from_numpy(fp8_values(bytes_of(w.values_OI)))
    return values * w.scales_R1.double()


def exact(w: Quantized) -> Tensor:
    """Any of them in float64."""
    if isinstance(w, RowStack):
        return torch.cat([exact(part) for part in w.parts])
    if isinstance(w, ScaledFp8 | Int8Channel):
        return scaled_exact(w)
    if isinstance(w, Nvfp4):
        return nvfp4_exact(w)
    if isinstance(w, Int4Groups | Int8Groups):
        return int4_exact(w) if isinstance(w, Int4Groups) else int8_exact(w)
    return fp8_exact(w) if isinstance(w, BlockFp8) else mxfp4_exact(w)


def bytes_of(packed: Tensor) -> np.ndarray:
    """The bytes of a tensor of one byte an element."""
    return packed.view(torch.uint8).numpy()


def fill_with_any_bytes(packed: Tensor, rng: np.random.Generator) -> None:
    """Any bytes, whatever they mean."""
    packed.view(torch.uint8).copy_(torch.from_numpy(rng.integers(0, 256, tuple(packed.shape), dtype=np.uint8)))


def fill_with_any_scales(scales: Tensor, rng: np.random.Generator) -> None:
    """Numbers over the whole range of float32, subnormal ones among them."""
    shape = tuple(scales.shape)
    scales.copy_(torch.from_numpy(np.ldexp(1 + rng.random(shape), rng.integers(-140, 128, shape)).astype(np.float32)))


def assert_same(actual: Tensor, expected_64: Tensor, dtype: torch.dtype) -> None:
    """The float64 value rounded to float32, as the product is, and then to `dtype`; NaN for NaN, sign for sign."""
    expected = expected_64.float().to(dtype)
    assert actual.dtype == dtype
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    numbers = ~expected.isnan()
    assert torch.equal(actual.signbit()[numbers], expected.signbit()[numbers])


def any_fp8(shape: tuple[int, int], dtype: torch.dtype, seed: int, block: tuple[int, int] = (128, 128)) -> BlockFp8:
    """Any codes, NaN among them, and any scales."""
    rng, w = np.random.default_rng(seed), BlockFp8.empty(shape, dtype, block=block)
    fill_with_any_bytes(w.values_OI, rng)
    fill_with_any_scales(w.scales_BC, rng)
    return w


def any_mxfp4(shape: tuple[int, int], dtype: torch.dtype, seed: int) -> Mxfp4:
    """Any bytes and any scales, 255 among them."""
    rng, w = np.random.default_rng(seed), Mxfp4.empty(shape, dtype)
    for packed in (w.blocks_OGH, w.scales_OG):
        fill_with_any_bytes(packed, rng)
    return w


def any_nvfp4(shape: tuple[int, int], dtype: torch.dtype, seed: int) -> Nvfp4:
    """Any bytes and any scales, NaN and negative ones among them."""
    rng, w = np.random.default_rng(seed), Nvfp4.empty(shape, dtype)
    for packed in (w.packed_OH, w.scales_OG):
        fill_with_any_bytes(packed, rng)
    fill_with_any_scales(w.scale_1, rng)
    return w


def any_scaled(kind: type[W], shape: tuple[int, int], dtype: torch.dtype, seed: int, per_tensor: bool = False) -> W:
    """Any codes and any scales."""
    rng, w = np.random.default_rng(seed), kind.empty(shape, dtype, per_tensor=per_tensor)
    fill_with_any_bytes(w.values_OI, rng)
    fill_with_any_scales(w.scales_R1, rng)
    return w


# A matrix of any contents in a format: of a shape, a dtype and a seed.
ANY: dict[str, Callable[[tuple[int, int], torch.dtype, int], Quantized]] = {
    "fp8": any_fp8,
    "mxfp4": any_mxfp4,
    "nvfp4": any_nvfp4,
    "scaled_fp8": lambda shape, dtype, seed: any_scaled(ScaledFp8, shape, dtype, seed),
    "fp8_tensor": lambda shape, dtype, seed: any_scaled(ScaledFp8, shape, dtype, seed, per_tensor=True),
    "int8": lambda shape, dtype, seed: any_scaled(Int8Channel, shape, dtype, seed),
    "int4": any_int4,
    "int4_ordered": partial(any_int4, zeros=True, ordered=True),
    "int8_groups": any_int8,
}


def near_one(w_OI: Tensor, form: str) -> Quantized:
    """A matrix like `w_OI`, rounded to a format, on its device, decoding to its dtype."""
    shape = w_OI.shape[0], w_OI.shape[1]
    if form == "fp8":
        return _near_fp8(w_OI, BlockFp8.empty(shape, w_OI.dtype, w_OI.device, block=(16, 16)))
    if form.startswith("int4") or form == "int8_groups":
        return near_one_integer(w_OI, form)
    if form == "nvfp4":
        return _near_nvfp4(w_OI, Nvfp4.empty(shape, w_OI.dtype, w_OI.device))
    if form == "mxfp4":
        return _near_mxfp4(w_OI, Mxfp4.empty(shape, w_OI.dtype, w_OI.device))
    kind = Int8Channel if form == "int8" else ScaledFp8
    w = kind.empty(shape, w_OI.dtype, w_OI.device, per_tensor=form == "fp8_tensor")
    w.scales_R1.copy_(_about_one(w.scales_R1.shape, shape[0]) / (32 if form == "int8" else 1))
    w.values_OI.copy_((w_OI.float() * 32).round() if form == "int8" else w_OI)
    return w


def _about_one(shape: tuple[int, ...], seed: int) -> Tensor:
    return 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _near_fp8(w_OI: Tensor, w: BlockFp8) -> BlockFp8:
    w.scales_BC.copy_(_about_one(w.scales_BC.shape, w.shape[0]))
    w.values_OI.copy_(w_OI)
    return w


def _near_nvfp4(w_OI: Tensor, w: Nvfp4) -> Nvfp4:
    w.packed_OH.copy_(_fp4_bytes(w_OI))
    w.scales_OG.copy_(_about_one(w.scales_OG.shape, w.shape[0]))
    w.scale_1.fill_(0.3)
    return w


def _near_mxfp4(w_OI: Tensor, w: Mxfp4) -> Mxfp4:
    w.blocks_OGH.copy_(_fp4_bytes(w_OI).view(w.blocks_OGH.shape))
    w.scales_OG.copy_(torch.arange(w.scales_OG.numel()).view(w.scales_OG.shape) % 3 + 124)
    return w


def _fp4_bytes(w_OI: Tensor) -> Tensor:
    codes = (w_OI.float().abs() * 4).round().clamp(max=7).to(torch.uint8) | (w_OI < 0).to(torch.uint8) << 3
    return codes[:, ::2] | codes[:, 1::2] << 4


def quantize(matrices_EOI: Tensor, form: str) -> tuple[Quantized, ...]:
    """E matrices; as a gate over an up, each with its own scales, where the rows are even in number."""
    if matrices_EOI.shape[1] % 2:
        return tuple(near_one(w, form) for w in matrices_EOI)
    return tuple(RowStack(tuple(near_one(half, form) for half in w.chunk(2))) for w in matrices_EOI)


def quantized_case(case: Case, form: str) -> Case:
    """The case, with whole groups where the format wants them."""
    return replace(case, hidden=64, ffn=32) if GROUPS[form] > 1 else case
