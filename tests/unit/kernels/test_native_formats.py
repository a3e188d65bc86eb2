"""Quantized matrices in panels: any contents, what falls back to floats, and what they take in memory."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.int4_groups import Int4Groups
from kernels.formats.int8_groups import Int8Groups
from kernels.formats.mxfp4 import Mxfp4
from kernels.formats.nvfp4 import Nvfp4
from kernels.formats.quantized import RowStack
from kernels.native import products
from tests.unit.kernels.integer_cases import any_int4, any_int8, int4_exact
from tests.unit.kernels.native_cases import computing, instruction_sets, needs_native, same_bits
from tests.unit.kernels.pairwise import pairwise
from tests.unit.kernels.quantized_cases import ANY, any_fp8, any_mxfp4, any_nvfp4, bytes_of, exact, near_one

pytestmark = needs_native

SETS = instruction_sets()
EPS = torch.finfo(torch.float32).eps


def without_nan_values(w):
    """FP8 values whose codes of NaN became others; scales stay as they are."""
    for part in w.parts if isinstance(w, RowStack) else (w,):
        if hasattr(part, "values_OI") and part.values_OI.dtype == torch.float8_e4m3fn:
            codes = torch.from_numpy(bytes_of(part.values_OI))
            codes[codes & 0x7F == 0x7F] -= 1
    return w


def assert_products(w, x, isa="", rows_at_once=(1, 7, 30)):
    """x W^T in float32 within what the order of additions explains, and NaN where float64 has it."""
    w_64, panels = exact(w), products.prepare_matrix(w)
    expected, sizes = x.double() @ w_64.T, x.double().abs() @ w_64.abs().T
    for rows in rows_at_once:
        with computing(isa or SETS[0]):
            y = products.product(x[:rows], panels, dtype=torch.float32).double()
        sound = sizes[:rows] < 2.0**126
        allowed = 64 * EPS * sizes[:rows] + 2.0**-133
        assert bool(((y - expected[:rows]).abs() <= allowed)[sound].all())
        assert bool(y.isnan()[expected[:rows].isnan()].all())
    return panels


@pairwise(form=tuple(ANY), dtype=(torch.float32, torch.bfloat16), isa=SETS, seed=(0, 1, 2))
def test_any_contents(form, dtype, isa, seed):
    w = without_nan_values(ANY[form]((40, 96), dtype, seed))
    x = torch.randn(30, 96, generator=torch.Generator().manual_seed(seed)).to(dtype)
    panels = assert_products(w, x, isa)
    assert not panels.is_float


def test_scales_that_are_no_numbers_concern_their_outputs_only():
    w = near_one(torch.randn(40, 64).bfloat16(), "mxfp4")
    w.scales_OG[3, 1] = 255
    y = products.linear(torch.randn(5, 64).bfloat16(), products.prepare_matrix(w))
    assert y.isnan().any(0).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("isa", SETS)
def test_subnormal_and_large_scales(isa):
    w = any_fp8((32, 64), torch.float32, 0, block=(32, 16))
    w.scales_BC.fill_(2.0**-140)
    assert_products(without_nan_values(w), torch.randn(30, 64), isa)
    w.scales_BC.fill_(2.0**100)
    assert_products(w, torch.full((30, 64), 2.0**-95), isa)


@pytest.mark.parametrize("block", [(1, 8), (3, 2), (16, 6), (17, 128), (32, 64), (128, 300), (7, 700)])
def test_blocks_of_any_height(block):
    w = without_nan_values(any_fp8((100, 600), torch.float32, 1, block=block))
    w.scales_BC.copy_(torch.rand(w.scales_BC.shape) + 0.5)
    assert not assert_products(w, torch.randn(30, 600)).is_float


@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("group", [8, 24, 128, 320, 1000])
def test_integer_groups_and_scales(group, scale_dtype):
    x = torch.randn(30, 640)
    for zeros in (False, True):
        w = any_int4((70, 640), torch.float32, 2, group=group, scale_dtype=scale_dtype, zeros=zeros, ordered=zeros)
        assert not assert_products(w, x).is_float
    assert not assert_products(any_int8((70, 640), torch.float32, 2, group=group, scale_dtype=scale_dtype), x).is_float


def stacked_forms(outputs):
    """Matrices on top of each other, with scales and outer factors of their own."""
    whole = torch.randn(outputs, 64)
    for form in ANY:
        yield form, RowStack((near_one(whole, form), near_one(torch.randn(outputs, 64), form)))
    low, high = near_one(whole, "nvfp4"), near_one(whole, "nvfp4")
    high.scale_1.fill_(7.5)
    yield "nvfp4", RowStack((low, high))


@pytest.mark.parametrize("outputs", [16, 32, 40, 5])
def test_stacked(outputs):
    for form, w in stacked_forms(outputs):
        panels = assert_products(w, torch.randn(30, 64))
        # Two permutations of the inputs cannot both be applied to x.
        assert panels.is_float == (form == "int4_ordered" and not torch.equal(*(part.order_I for part in w.parts)))


def test_inputs_in_any_order():
    w = any_int4((48, 160), torch.bfloat16, 3, group=32, zeros=True, ordered=True)
    x = torch.randn(30, 160).bfloat16()
    y = products.product(x, products.prepare_matrix(w), dtype=torch.float32)
    expected, sizes = x.double() @ int4_exact(w).T, x.double().abs() @ int4_exact(w).abs().T
    assert bool(((y - expected).abs() <= 64 * EPS * sizes).all())


def fallbacks():
    """(Why a matrix is kept as floats, the matrix)."""
    nan = near_one(torch.randn(40, 64).bfloat16(), "fp8")
    nan.values_OI.view(torch.uint8)[3, 5] = 0xFF
    yield "BlockFp8 .*NaN", nan
    odd = BlockFp8.empty((40, 64), torch.bfloat16, block=(16, 5))
    odd.values_OI.copy_(torch.randn(40, 64))
    odd.scales_BC.fill_(2)
    yield "BlockFp8 .*groups of 5", odd
    yield "Int4Groups .*groups of 12", any_int4((40, 64), torch.bfloat16, 0, group=12)
    yield "Int8Groups .*groups of 3", any_int8((40, 64), torch.bfloat16, 0, group=3)
    parts = near_one(torch.randn(16, 64).bfloat16(), "fp8"), near_one(torch.randn(16, 64).bfloat16(), "mxfp4")
    yield "BlockFp8 and Mxfp4 .*differ in format", RowStack(parts)
    plain, shifted = (any_int4((16, 64), torch.bfloat16, 0, zeros=zeros) for zeros in (False, True))
    yield "Int4Groups .*zero points", RowStack((plain, shifted))


@pytest.mark.parametrize(("reason", "w"), [pytest.param(*one, id=one[0]) for one in fallbacks()])
def test_what_the_kernels_cannot_take_is_decoded(reason, w, caplog):
    panels = products.prepare_matrix(w)
    assert panels.is_float
    (record,) = caplog.records
    assert re.search(reason, record.getMessage())
    x = torch.randn(5, 64).bfloat16()
    assert same_bits(products.linear(x, panels), products.linear(x, products.prepare_matrix(w.dense())))


# Bytes of the published values, and at most so many more.
@pytest.mark.parametrize(
    ("w", "more"),
    [
        (BlockFp8.empty((512, 512), torch.bfloat16), 1 / 128),
        (any_mxfp4((512, 512), torch.bfloat16, 0), 0),
        (any_nvfp4((512, 512), torch.bfloat16, 0), 1 / 256),
        (Int4Groups.empty((512, 512), torch.bfloat16, group=32), 0),
        (Int4Groups.empty((512, 512), torch.bfloat16, group=128, zeros=True, ordered=True), 0),
        (Int8Groups.empty((512, 512), torch.bfloat16, group=512), 0),
    ],
    ids=lambda one: type(one).__name__,
)
def test_panels_take_the_published_bytes(w, more):
    if isinstance(w, BlockFp8):
        w.values_OI.view(torch.uint8).zero_()
        w.scales_BC.fill_(1)
    if isinstance(w, Int4Groups | Int8Groups):
        w = replace(w, scales_OG=torch.ones_like(w.scales_OG))
    if isinstance(w, Mxfp4 | Nvfp4):
        w.scales_OG.fill_(1)  # a scale of 0 or NaN takes four bytes
    if isinstance(w, Int4Groups) and w.order_I is not None:
        w.order_I.copy_(torch.arange(512))
    assert w.nbytes <= products.prepare_matrix(w).nbytes <= w.nbytes * (1 + more)
