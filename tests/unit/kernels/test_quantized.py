"""Every quantized format against their definitions in float64, and stacks of them, bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.formats import quantized
from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.buffers import MOST_SHAPES, Buffers
from kernels.formats.mxfp4 import Mxfp4
from kernels.formats.quantized import Quantized, RowStack, Scratch, as_dense
from tests.unit.kernels.kernel_cases import DTYPES
from tests.unit.kernels.quantized_cases import (
    ANY,
    FORMATS,
    GROUPS,
    any_fp8,
    any_mxfp4,
    assert_same,
    exact,
)

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 300)
BLOCKS = st.sampled_from([(128, 128), (64, 32), (1, 1), (7, 300)])


@st.composite
def matrices(draw: st.DrawFn) -> Quantized:
    """Any shape of any format, alone or stacked."""
    dtype, inputs = draw(st.sampled_from(DTYPES)), draw(SIZES)
    kinds = draw(st.lists(st.sampled_from(FORMATS), min_size=1, max_size=3))
    group = max(GROUPS[kind] for kind in kinds)
    inputs = -(-inputs // group) * group
    parts: list[Quantized] = []
    for kind in kinds:
        shape = draw(SIZES), inputs
        make = partial(any_fp8, block=draw(BLOCKS)) if kind == "fp8" else ANY[kind]
        parts.append(make(shape, dtype, draw(SEEDS)))
    return parts[0] if len(parts) == 1 else RowStack(tuple(parts))


@settings(deadline=None, max_examples=150)
@given(matrices(), st.data())
def test_any_rows_decode_to_what_the_format_means(w, data):
    expected = exact(w)
    assert w.shape == expected.shape
    assert_same(w.dense(), expected, w.dtype)
    start = data.draw(st.integers(0, w.shape[0]))
    end = data.draw(st.integers(start, w.shape[0]))
    assert_same(w.rows(start, end), expected[start:end], w.dtype)


@settings(deadline=None, max_examples=100)
@given(matrices(), st.integers(1, 5), st.data())
def test_the_size_of_a_step_does_not_matter(w, most, data):
    start = data.draw(st.integers(0, w.shape[0] - 1))
    out = torch.empty(data.draw(st.integers(1, w.shape[0] - start)), w.shape[1], dtype=w.dtype)
    w.decode_into(start, out, Scratch.of_size(most * w.shape[1], w.device))
    assert_same(out, exact(w)[start : start + len(out)], w.dtype)


@settings(deadline=None, max_examples=30)
@given(matrices())
def test_dense_into_fills_what_is_there(w):
    # Every second column of something wider: what a caller hands over need not be contiguous.
    out = torch.zeros(w.shape[0], 2 * w.shape[1], dtype=w.dtype)
    w.dense_into(out[:, ::2])
    assert_same(out[:, ::2].contiguous(), exact(w), w.dtype)
    assert not out[:, 1::2].any()


@pytest.mark.parametrize("threads", [1, 2])
def test_large_matrices_take_several_steps(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(quantized, "_ELEMENTS_SHARED", 1 << 18)
    w = any_fp8((515, 1026), torch.bfloat16, seed=1)
    assert len(Scratch.for_rows(w, 515).wide_N) < w.shape.numel()
    assert_same(w.dense(), exact(w), torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [256, 255])
def test_every_fp8_code(columns, dtype):
    w = any_fp8((2, columns), dtype, seed=0)
    w.values_OI.view(torch.uint8).copy_(torch.stack((torch.arange(columns), 255 - torch.arange(columns))))
    w.scales_BC.fill_(1)
    dense = w.dense()
    assert_same(dense, exact(w), dtype)
    assert dense[1].isnan().nonzero().flatten().tolist() == [0, 128]
    assert dense[~dense.isnan()].abs().max() == 448
    assert dense[0, 1] == 2.0**-9


def test_fp8_values_at_an_odd_address():
    codes = torch.arange(2 * 128 + 1).to(torch.uint8)[1:].view(torch.float8_e4m3fn).view(2, 128)
    w = BlockFp8(codes, torch.ones(1, 1), torch.float32)
    assert_same(w.dense(), exact(w), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_fp4_code_in_order(dtype):
    w = any_mxfp4((1, 32), dtype, seed=0)
    low_first = torch.tensor([low | low + 1 << 4 for low in range(0, 16, 2)], dtype=torch.uint8)
    w.blocks_OGH.copy_(low_first.repeat(2).view(1, 1, 16))
    w.scales_OG.fill_(127)
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert w.dense()[0, :16].tolist() == values + [-value for value in values]
    assert_same(w.dense(), exact(w), dtype)


@pytest.mark.parametrize(("scale", "one_and_a_half"), [(0, 1.5 * 2.0**-127), (254, 1.5 * 2.0**127), (127, 1.5)])
def test_extreme_e8m0_scales(scale, one_and_a_half):
    w = any_mxfp4((1, 32), torch.float32, seed=0)
    w.blocks_OGH.fill_(0x73)
    w.scales_OG.fill_(scale)
    first, second = w.dense()[0, :2].tolist()
    assert first == one_and_a_half
    assert second == (np.inf if scale == 254 else 4 * one_and_a_half)


def test_a_scale_of_255_makes_its_group_nan_and_no_other():
    w = any_mxfp4((2, 64), torch.bfloat16, seed=0)
    w.scales_OG.copy_(torch.tensor([[127, 255], [127, 127]]))
    assert w.dense().isnan().view(2, 2, 32).all(2).tolist() == [[False, True], [False, False]]
    assert w.dense().isnan().sum() == 32


def test_what_float16_cannot_hold_is_infinite():
    w = BlockFp8(torch.full((1, 2), 448.0).to(torch.float8_e4m3fn), torch.tensor([[200.0]]), torch.float16)
    assert w.dense().tolist() == [[np.inf, np.inf]]


def test_decoding_works_in_and_out_of_inference_mode(monkeypatch):
    monkeypatch.setattr(quantized, "BUFFERS", Buffers())
    w = any_mxfp4((3, 96), torch.bfloat16, seed=3)
    with torch.inference_mode():
        first = w.dense()
    assert_same(first, exact(w), torch.bfloat16)
    assert_same(w.dense(), exact(w), torch.bfloat16)


def test_threads_decode_side_by_side():
    matrices = [any_fp8((300, 256), torch.float32, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for w, dense in zip(matrices, pool.map(Quantized.dense, matrices), strict=True):
            assert_same(dense, exact(w), torch.float32)


def test_buffers_are_kept_and_grow():
    buffers, cpu = Buffers(), torch.device("cpu")
    first = buffers.take("a", 8, torch.float32, cpu)
    assert buffers.take("a", 16, torch.bfloat16, cpu).data_ptr() == first.data_ptr()
    assert buffers.take("b", 8, torch.float32, cpu).data_ptr() != first.data_ptr()
    assert buffers.take("a", 9, torch.float32, cpu).shape == (9,)
    assert buffers.take("a", 9, torch.float32, torch.device("meta")).is_meta


def test_shaped_buffers_are_made_once_and_follow_their_memory():
    buffers, cpu = Buffers(), torch.device("cpu")
    with torch.inference_mode():
        first = buffers.shaped("a", (2, 4), torch.float32, cpu)
    assert not first.is_inference()
    assert first.shape == (2, 4)
    assert buffers.shaped("a", (2, 4), torch.float32, cpu) is first
    assert buffers.shaped("a", (4, 2), torch.float32, cpu).shape == (4, 2)
    assert buffers.shaped("a", (2, 4), torch.bfloat16, cpu).dtype == torch.bfloat16
    grown = buffers.take("a", 64, torch.float32, cpu)
    assert buffers.shaped("a", (2, 4), torch.float32, cpu).data_ptr() == grown.data_ptr()
    assert buffers.shaped("a", (2, 4), torch.float32, torch.device("meta")).is_meta


def test_only_so_many_shapes_are_remembered():
    buffers, cpu = Buffers(), torch.device("cpu")
    first = buffers.shaped("a", (500,), torch.float32, cpu)
    for size in range(1, MOST_SHAPES + 1):
        buffers.shaped("a", (size,), torch.float32, cpu)
    assert buffers.shaped("a", (500,), torch.float32, cpu) is not first


def test_bytes_shape_and_device():
    fp8, mxfp4 = BlockFp8.empty((200, 160), torch.bfloat16), Mxfp4.empty((8, 160), torch.bfloat16)
    stack = RowStack((fp8, mxfp4))
    assert fp8.nbytes == 200 * 160 + 4 * 2 * 2
    assert mxfp4.nbytes == 8 * 160 // 2 + 8 * 5
    assert (stack.nbytes, stack.shape, stack.dtype) == (fp8.nbytes + mxfp4.nbytes, (208, 160), torch.bfloat16)
    assert stack.device == fp8.device == mxfp4.device == torch.device("cpu")


def test_as_dense():
    dense, w = torch.ones(2, 2), any_mxfp4((3, 32), torch.float32, seed=5)
    assert as_dense(dense) is dense
    assert_same(as_dense(w), exact(w), torch.float32)


def test_bad_fp8_is_refused():
    values, scales = torch.zeros(130, 140).to(torch.float8_e4m3fn), torch.zeros(2, 2)
    bad = {
        "float8_e4m3fn matrix": [(values.float(), scales), (values[0], scales), (values[:0], scales)],
        "must be float32": [(values, scales[:1]), (values, scales.double()), (values, scales.flatten())],
        "contiguous": [(values[:, :130], scales), (values, scales.T)],
        "meta": [(values, scales.to("meta"))],
    }
    for words, cases in bad.items():
        for case in cases:
            with pytest.raises(ValueError, match=words):
                BlockFp8(*case, torch.bfloat16)
    with pytest.raises(ValueError, match="float64"):
        BlockFp8(values, scales, torch.float64)
    with pytest.raises(ValueError, match="blocks"):
        BlockFp8(values, scales, torch.bfloat16, block=(0, 128))


def test_bad_mxfp4_is_refused():
    blocks, scales = torch.zeros(3, 2, 16, dtype=torch.uint8), torch.zeros(3, 2, dtype=torch.uint8)
    bad = {
        "uint8": [(blocks.int(), scales), (blocks, scales.float()), (blocks.transpose(0, 1), scales)],
        "blocks must be": [(blocks[:, :, :8].contiguous(), scales), (blocks.flatten(1), scales)],
        "scales must be": [(blocks, scales[:2]), (blocks, scales.flatten())],
        "meta": [(blocks, scales.to("meta"))],
    }
    for words, cases in bad.items():
        for case in cases:
            with pytest.raises(ValueError, match=words):
                Mxfp4(*case, torch.bfloat16)
    with pytest.raises(ValueError, match="float64"):
        Mxfp4(blocks, scales, torch.float64)
    with pytest.raises(ValueError, match="groups of 32"):
        Mxfp4.empty((3, 48), torch.bfloat16)


def test_bad_stacks_are_refused():
    w = BlockFp8.empty((4, 64), torch.bfloat16)
    others = BlockFp8.empty((4, 32), torch.bfloat16), BlockFp8.empty((4, 64), torch.float16)
    with pytest.raises(ValueError, match="at least one"):
        RowStack(())
    for other in others:
        with pytest.raises(ValueError, match="must share columns, dtype and device"):
            RowStack((w, other))


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, 5)])
def test_rows_out_of_range_are_refused(start, end):
    with pytest.raises(ValueError, match="do not lie in a matrix of 4 rows"):
        BlockFp8.empty((4, 64), torch.bfloat16).rows(start, end)


def test_an_unfit_out_is_refused():
    w = BlockFp8.empty((4, 64), torch.bfloat16)
    for out in (torch.empty(4, 64), torch.empty(3, 64, dtype=torch.bfloat16), w.dense().to("meta")):
        with pytest.raises(ValueError, match="out must be"):
            w.dense_into(out)


def test_one_row_fits_even_where_it_is_long(monkeypatch):
    monkeypatch.setattr(quantized, "_ELEMENTS", 8)
    monkeypatch.setattr(quantized, "_ELEMENTS_SHARED", 8)
    w = any_mxfp4((3, 96), torch.bfloat16, seed=3)
    assert_same(w.dense(), exact(w), torch.bfloat16)
