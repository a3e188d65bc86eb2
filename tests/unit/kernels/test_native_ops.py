"""The native kernels against float64: products and experts in every format, dtype and instruction set."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.native import experts, products
from tests.unit.kernels.kernel_cases import CASES, DTYPES, KINDS, Case, assert_near, make
from tests.unit.kernels.native_cases import (
    ascending_sums,
    computing,
    expert_rows_64,
    instruction_sets,
    needs_native,
    same_bits,
)
from tests.unit.kernels.pairwise import pairwise
from tests.unit.kernels.quantized_cases import FORMATS, exact, near_one, quantize, quantized_case

pytestmark = needs_native

SETS = instruction_sets()
FORMS = ("float", *FORMATS)


def matrices(w_EOI, form):
    """Each expert's matrix in a format, and what it means in float64."""
    if form == "float":
        return tuple(w_EOI), [w.double() for w in w_EOI]
    packed = quantize(w_EOI, form)
    return packed, [exact(w) for w in packed]


def prepared(problem, form):
    """The experts in panels, and what their rows should be."""
    gate_up, gate_up_64 = matrices(problem.w_gate_up_E2FD, form)
    down, down_64 = matrices(problem.w_down_EDF, form)
    return problem.prepare_with(experts, gate_up, down), lambda: expert_rows_64(problem, gate_up_64, down_64)


@pairwise(case=CASES, dtype=DTYPES, form=FORMS, kind=KINDS, isa=SETS, threads=(1, 2))
def test_experts(case, dtype, form, kind, isa, threads):
    problem = make(case if form == "float" else quantized_case(case, form), dtype, kind=kind)
    weights, expected = prepared(problem, form)
    token, expert, _ = problem.rows
    with computing(isa, threads):
        y_TD = experts.expert_ffn(problem.x_TD, weights, *problem.rows)
        y_ND = experts.expert_rows(problem.x_TD, weights, *problem.rows)
    expected_ND = expected()
    # Sums are in float32; the hidden vector was rounded to the dtype.
    assert y_TD.dtype == y_ND.dtype == torch.float32
    assert_near(y_ND.to(dtype), expected_ND.to(dtype), dtype)
    expected_TD = ascending_sums(expected_ND, token, expert, case.tokens)
    assert_near(y_TD.to(dtype), expected_TD.to(dtype), dtype)
    assert same_bits(y_TD, ascending_sums(y_ND, token, expert, case.tokens))


@pairwise(
    rows=(0, 1, 2, 5, 8, 9, 13, 40, 200), dtype=DTYPES, form=FORMS, isa=SETS, threads=(1, 2), biased=(False, True)
)
def test_products(rows, dtype, form, isa, threads, biased):
    rng = torch.Generator().manual_seed(rows)
    x, w = torch.randn(rows, 96, generator=rng).to(dtype), torch.randn(200, 96, generator=rng).to(dtype)
    bias = torch.randn(200, generator=rng).to(dtype) if biased else None
    (matrix,), (w_64,) = ((w,), (w.double(),)) if form == "float" else ((m := near_one(w, form),), (exact(m),))
    with computing(isa, threads):
        y = products.linear(x, products.prepare_matrix(matrix), bias)
    assert_near(y, (x.double() @ w_64.T + (0 if bias is None else bias.double())).to(dtype), dtype)


# Formats that have rows of any length.
@pairwise(
    shape=((1, 1), (3, 17), (33, 40), (31, 129), (70, 7)),
    dtype=DTYPES,
    form=("float", "scaled_fp8", "int8", "int4"),
    isa=SETS,
)
def test_products_of_odd_sizes(shape, dtype, form, isa):
    rng = torch.Generator().manual_seed(shape[1])
    w = torch.randn(shape, generator=rng).to(dtype)
    matrix = w if form == "float" else near_one(w, form)
    w_64 = w.double() if form == "float" else exact(matrix)
    for rows in (1, 7, 30):
        x = torch.randn(rows, shape[1], generator=rng).to(dtype)
        with computing(isa):
            assert_near(products.linear(x, products.prepare_matrix(matrix)), (x.double() @ w_64.T).to(dtype), dtype)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(FORMS),
    st.sampled_from(DTYPES),
    st.sampled_from(SETS or ["none"]),
    st.integers(1, 60),
    st.integers(0, 1 << 30),
)
def test_a_rows_bits_are_its_own(form, dtype, isa, rows, seed):
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn(72, 64, generator=rng).to(dtype)
    panels = products.prepare_matrix(w if form == "float" else near_one(w, form))
    x = torch.randn(rows, 64, generator=rng).to(dtype)
    few = torch.randperm(rows, generator=rng)[: 1 + seed % rows]
    with computing(isa, 2):
        together = products.linear(x, panels)
    with computing(isa):
        assert same_bits(products.linear(x[few], panels), together[few])
        assert same_bits(products.linear(x[few[:1]], panels), together[few[:1]])


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(FORMS), st.sampled_from(SETS or ["none"]), st.integers(2, 40), st.integers(0, 1 << 30))
def test_a_tokens_bits_are_its_own(form, isa, tokens, seed):
    problem = make(Case(tokens, experts=4, hidden=64, ffn=32), torch.bfloat16)
    weights, _ = prepared(problem, form)
    rng = torch.Generator().manual_seed(seed)
    with computing(isa, 2):
        together = experts.expert_ffn(problem.x_TD, weights, *problem.rows)
    token, expert, weight = problem.rows
    one = int(torch.randint(tokens, (1,), generator=rng))
    own = torch.nonzero(token == one).flatten()
    own = own[torch.randperm(len(own), generator=rng)]
    with computing(isa):
        alone = experts.expert_ffn(
            problem.x_TD[one : one + 1], weights, torch.zeros_like(own), expert[own], weight[own]
        )
    assert same_bits(alone, together[one : one + 1])


@pytest.mark.parametrize("form", ["float", "fp8"])
def test_bad_rows_are_refused(form):
    problem = make(Case(3, experts=2, hidden=64, ffn=32, top_k=2), torch.bfloat16)
    weights, _ = prepared(problem, form)
    token, expert, weight = problem.rows
    for bad in (-1, 2, 1 << 40):
        with pytest.raises(ValueError, match="expert id"):
            experts.expert_ffn(problem.x_TD, weights, token, torch.full_like(expert, bad), weight)
    for bad in (-1, 3, 1 << 40):
        with pytest.raises(IndexError, match="token"):
            experts.expert_rows(problem.x_TD, weights, torch.full_like(token, bad), expert, weight)
    with pytest.raises(ValueError, match="does not fit"):
        experts.expert_ffn(problem.x_TD[:, :32], weights, token, expert, weight)
    with pytest.raises(ValueError, match="does not fit"):
        experts.expert_ffn(problem.x_TD.float(), weights, token, expert, weight)
    with pytest.raises(ValueError, match="one length"):
        experts.expert_ffn(problem.x_TD, weights, token[:1], expert, weight)


@pytest.mark.parametrize("form", ["float", "int4"])
def test_bad_products_are_refused(form):
    w = torch.randn(40, 64).bfloat16()
    panels = products.prepare_matrix(w if form == "float" else near_one(w, form))
    for bad in (torch.zeros(2, 63).bfloat16(), torch.zeros(2, 64), torch.zeros(64).bfloat16()):
        with pytest.raises(ValueError, match="does not fit"):
            products.linear(bad, panels)


def test_rows_are_taken_from_floats_only():
    w = torch.randn(40, 64).bfloat16()
    panels = products.prepare_matrix(w)
    assert torch.equal(products.take_rows(panels, torch.tensor([39, 0, 7])), w[[39, 0, 7]])
    for bad in (-1, 40):
        with pytest.raises(IndexError, match=r"0\.\.39"):
            products.take_rows(panels, torch.tensor([bad]))
    with pytest.raises(ValueError, match="float matrices"):
        products.take_rows(products.prepare_matrix(near_one(w, "mxfp4")), torch.tensor([0]))
