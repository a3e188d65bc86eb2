"""INT4 and INT8 groups against their definitions in float64, bit for bit; bad ones are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.formats.int4_groups import Int4Groups
from kernels.formats.int8_groups import Int8Groups
from kernels.formats.quantized import Scratch
from tests.unit.kernels.integer_cases import any_int4, any_int8, int4_exact, int8_exact
from tests.unit.kernels.kernel_cases import DTYPES
from tests.unit.kernels.quantized_cases import assert_same

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 150)


@st.composite
def int4_matrices(draw: st.DrawFn) -> Int4Groups:
    """Any size, odd ones too; groups that divide the row, that do not, and of a whole row."""
    shape = draw(SIZES), draw(SIZES)
    return any_int4(
        shape,
        draw(st.sampled_from(DTYPES)),
        draw(SEEDS),
        group=draw(st.sampled_from([1, 5, 16, 32, 128, shape[1]])),
        scale_dtype=draw(st.sampled_from(DTYPES)),
        zeros=draw(st.booleans()),
        ordered=draw(st.booleans()),
    )


@settings(deadline=None, max_examples=100)
@given(int4_matrices(), st.integers(1, 5), st.data())
def test_int4_decodes_to_what_the_format_means(w, most, data):
    expected = int4_exact(w)
    assert w.shape == expected.shape
    assert_same(w.dense(), expected, w.dtype)
    start = data.draw(st.integers(0, w.shape[0] - 1))
    end = data.draw(st.integers(start, w.shape[0]))
    assert_same(w.rows(start, end), expected[start:end], w.dtype)
    out = torch.empty(end - start, w.shape[1], dtype=w.dtype)
    w.decode_into(start, out, Scratch.of_size(most * w.shape[1], w.device))
    assert_same(out, expected[start:end], w.dtype)


@settings(deadline=None, max_examples=50)
@given(SIZES, SIZES, SEEDS, st.sampled_from(DTYPES), st.sampled_from([1, 5, 32, 128, 1000]), st.data())
def test_int8_decodes_to_what_the_format_means(outputs, inputs, seed, dtype, group, data):
    w = any_int8((outputs, inputs), dtype, seed, group=group, scale_dtype=data.draw(st.sampled_from(DTYPES)))
    expected = int8_exact(w)
    assert_same(w.dense(), expected, dtype)
    start = data.draw(st.integers(0, outputs))
    assert_same(w.rows(start, outputs), expected[start:], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_int4_code_in_order(dtype):
    w = any_int4((1, 16), dtype, seed=0, group=16)
    w.codes_OP.copy_(torch.tensor([[low | low + 1 << 4 for low in range(0, 16, 2)]], dtype=torch.uint8))
    w.scales_OG.fill_(-0.5)
    assert w.dense().tolist() == [[-0.5 * code for code in range(-8, 8)]]


def test_zero_points_are_of_their_group():
    w = any_int4((1, 4), torch.float32, seed=0, group=2, zeros=True)
    assert w.zeros_OG is not None
    w.codes_OP.fill_(0x52)  # 2, then 5
    w.scales_OG.fill_(1)
    w.zeros_OG.copy_(torch.tensor([[0, 15]]))
    assert w.dense().tolist() == [[2, 5, -13, -10]]


def test_a_product_with_ordered_inputs_needs_them_permuted_alone():
    """What a kernel relies on that multiplies the codes as they lie."""
    w = any_int4((5, 64), torch.float32, seed=3, group=16, ordered=True)
    assert w.order_I is not None
    plain = Int4Groups(w.codes_OP, w.scales_OG, w.dtype, w.group, w.inputs)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(x[:, w.order_I] @ plain.dense().T, x @ w.dense().T)


def test_bytes_and_shape():
    plain = Int4Groups.empty((6, 100), torch.bfloat16, group=32)
    full = Int4Groups.empty((6, 99), torch.bfloat16, group=99, scale_dtype=torch.float32, zeros=True, ordered=True)
    wide = Int8Groups.empty((6, 100), torch.bfloat16, group=128)
    assert (plain.shape, plain.nbytes) == ((6, 100), 6 * 50 + 2 * 6 * 4)
    assert (full.shape, full.nbytes) == ((6, 99), 6 * 50 + 4 * 6 + 6 + 4 * 99)
    assert (wide.shape, wide.nbytes) == ((6, 100), 600 + 2 * 6)
    assert plain.device == wide.device == torch.device("cpu")


CODES, SCALES = torch.zeros(3, 20, dtype=torch.uint8), torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codes_OP": CODES.int()}, r"uint8 \[O, 20\], got torch.int32"),
        ({"codes_OP": CODES[:, :19].contiguous()}, r"codes of 40 inputs must be uint8 \[O, 20\]"),
        ({"scales_OG": SCALES[:, :1].contiguous()}, r"in groups of 32 must be floats \(3, 2\)"),
        ({"scales_OG": SCALES.double()}, "must be floats"),
        ({"group": 0}, "none empty"),
        ({"codes_OP": CODES[:0], "scales_OG": SCALES[:0]}, "none empty"),
        ({"dtype": torch.float64}, "not torch.float64"),
        ({"zeros_OG": torch.zeros(3, 2)}, r"zeros must be uint8 \(3, 2\)"),
        ({"zeros_OG": torch.zeros(3, 3, dtype=torch.uint8)}, "zeros must be uint8"),
        ({"order_I": torch.arange(40)}, r"order must be int32 \[40\], got torch.int64"),
        ({"order_I": torch.arange(39, dtype=torch.int32)}, "order must be int32"),
        ({"scales_OG": torch.zeros(2, 3).T}, "codes and scales must be contiguous"),
        ({"scales_OG": SCALES.to("meta")}, "codes on cpu and scales on meta"),
    ],
)
def test_bad_int4_is_refused(changes: dict[str, Any], words: str):
    good: dict[str, Any] = {
        "codes_OP": CODES, "scales_OG": SCALES, "dtype": torch.bfloat16, "group": 32, "inputs": 40,
    }  # fmt: skip
    Int4Groups(**good)
    with pytest.raises(ValueError, match=words):
        Int4Groups(**good | changes)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda codes: Int8Groups(codes.short(), SCALES, torch.half, 32), "codes must be int8"),
        (lambda codes: Int8Groups(codes[0], SCALES, torch.half, 32), "codes must be int8"),
        (lambda codes: Int8Groups(codes, SCALES, torch.half, 64), r"must be floats \(3, 1\)"),
        (lambda codes: Int8Groups(codes[:, ::2], SCALES, torch.half, 16), "codes and scales must be contiguous"),
    ],
)
def test_bad_int8_is_refused(make: Callable[[torch.Tensor], Int8Groups], words: str):
    with pytest.raises(ValueError, match=words):
        make(torch.zeros(3, 40, dtype=torch.int8))
