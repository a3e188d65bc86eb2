"""INT4 and INT8 matrices for the tests, and what they mean, worked out a code at a time in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kernels.formats.int4_groups import Int4Groups
from kernels.formats.int8_groups import Int8Groups
from kernels.formats.rounding import int4_of, int8_of


def int4_exact(w: Int4Groups) -> Tensor:
    """The matrix in float64: column j of the codes is input order[j], in group j // size."""
    outputs, inputs = w.shape
    dense = np.empty((outputs, inputs))
    codes, scales = w.codes_OP.numpy(), w.scales_OG.double().numpy()
    for column in range(inputs):
        nibble = codes[:, column // 2] >> 4 * (column % 2) & 15
        group = column // w.group
        zero = 8 if w.zeros_OG is None else w.zeros_OG[:, group].numpy().astype(int)
        place = column if w.order_I is None else int(w.order_I[column])
        dense[:, place] = (nibble.astype(int) - zero) * scales[:, group]
    return torch.from_numpy(dense)


def int8_exact(w: Int8Groups) -> Tensor:
    """The matrix in float64."""
    return w.codes_OI.double() * w.scales_OG.double().repeat_interleave(w.group, 1)[:, : w.shape[1]]


def any_int4(
    shape: tuple[int, int],
    dtype: torch.dtype,
    seed: int,
    *,
    group: int = 32,
    scale_dtype: torch.dtype = torch.bfloat16,
    zeros: bool = False,
    ordered: bool = False,
) -> Int4Groups:
    """Any codes, zero points and order, and scales of either sign."""
    rng = np.random.default_rng(seed)
    w = Int4Groups.empty(shape, dtype, group=group, scale_dtype=scale_dtype, zeros=zeros, ordered=ordered)
    w.codes_OP.copy_(torch.from_numpy(rng.integers(0, 256, tuple(w.codes_OP.shape), dtype=np.uint8)))
    w.scales_OG.copy_(any_scales(rng, tuple(w.scales_OG.shape)))
    if w.zeros_OG is not None:
        w.zeros_OG.copy_(torch.from_numpy(rng.integers(0, 16, tuple(w.zeros_OG.shape), dtype=np.uint8)))
    if w.order_I is not None:
        w.order_I.copy_(torch.from_numpy(rng.permutation(shape[1])))
    return w


def any_int8(
    shape: tuple[int, int],
    dtype: torch.dtype,
    seed: int,
    *,
    group: int = 32,
    scale_dtype: torch.dtype = torch.bfloat16,
) -> Int8Groups:
    """Any codes, and scales of either sign."""
    rng = np.random.default_rng(seed)
    w = Int8Groups.empty(shape, dtype, group=group, scale_dtype=scale_dtype)
    w.codes_OI.copy_(torch.from_numpy(rng.integers(-128, 128, shape, dtype=np.int8)))
    w.scales_OG.copy_(any_scales(rng, tuple(w.scales_OG.shape)))
    return w


def any_scales(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Over much of float16's range, subnormal ones among them."""
    return torch.from_numpy(rng.choice([-1, 1], shape) * np.ldexp(1 + rng.random(shape), rng.integers(-18, 8, shape)))


def near_one_integer(w_OI: Tensor, form: str) -> Int4Groups | Int8Groups:
    """A matrix like `w_OI` in groups of 16; `int4_ordered` has other zero points, and inputs in any order."""
    if form == "int8_groups":
        return int8_of(w_OI, 16)
    if form == "int4":
        return int4_of(w_OI, 16)
    rng = torch.Generator().manual_seed(len(w_OI))
    order_I = torch.randperm(w_OI.shape[1], generator=rng).to(w_OI.device)
    w = int4_of(w_OI[:, order_I], 16)
    zeros_OG = torch.randint(6, 11, tuple(w.scales_OG.shape), generator=rng, dtype=torch.uint8).to(w_OI.device)
    return replace(w, zeros_OG=zeros_OG, order_I=order_I.int())
