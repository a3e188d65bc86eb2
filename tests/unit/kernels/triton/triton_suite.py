"""The Triton backend against the reference. `test_triton.py` runs this file in a process of its own.

Not collected by name: on a machine without a GPU it needs TRITON_INTERPRET=1 before Triton is imported, which must not
leak into other tests.
"""

from __future__ import annotations

import pytest
import torch

from kernels import reference
from kernels.select import ops
from kernels.triton import ffn as triton_ffn
from kernels.triton import ops as all_of_triton
from kernels.triton import permute as triton_permute
from tests.unit.kernels.kernel_cases import CASES, DTYPES, KINDS, Case, assert_near, make
from tests.unit.kernels.pairwise import pairwise
from tests.unit.kernels.quantized_cases import FORMATS, near_one, quantize, quantized_case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="asks the device itself: no GPU here")


@pytest.fixture(scope="module")
def triton_ops():
    ops("triton", DEVICE)  # checks that it can run here
    return all_of_triton


@pairwise(case=CASES, dtype=DTYPES, kind=KINDS)
def test_expert_ffn(triton_ops, case, dtype, kind):
    problem = make(case, dtype, DEVICE, kind)
    expected = reference.expert_ffn(problem.x_TD, problem.prepare(reference), *problem.rows)
    actual = triton_ops.expert_ffn(problem.x_TD, problem.prepare(triton_ops), *problem.rows)
    assert_near(actual, expected, dtype)


@pairwise(case=[case for case in CASES if case.tokens in (0, 4, 9, 33)], dtype=DTYPES, kind=KINDS)
def test_expert_rows(triton_ops, case, dtype, kind):
    problem = make(case, dtype, DEVICE, kind)
    expected = reference.expert_rows(problem.x_TD, problem.prepare(reference), *problem.rows)
    assert_near(triton_ops.expert_rows(problem.x_TD, problem.prepare(triton_ops), *problem.rows), expected, dtype)


@pairwise(case=[case for case in CASES if case.tokens in (0, 4, 9)], dtype=DTYPES, kind=KINDS)
def test_parts(triton_ops, case, dtype, kind):
    problem = make(case, dtype, DEVICE, kind)
    ours, plain = problem.prepare(triton_ops), problem.prepare(reference)
    token, expert, weight = problem.rows
    order, offsets = triton_ops.group_by_expert(expert, case.experts)
    assert all(map(torch.equal, (order, offsets), reference.group_by_expert(expert, case.experts)))
    h = reference.gate_up(problem.x_TD, plain, token[order], weight[order], offsets)
    assert_near(triton_ops.gate_up(problem.x_TD, ours, token[order], weight[order], offsets), h, dtype)
    y = reference.down(h, plain, offsets, weight[order])
    assert_near(triton_ops.down(h, ours, offsets, weight[order]), y, dtype)
    total = reference.sum_rows(y, token[order], case.tokens)
    assert_near(triton_ops.sum_rows(y, token[order], case.tokens), total, torch.float32)


def test_separate_matrices_are_stacked(triton_ops):
    problem = make(Case(2), torch.float32, DEVICE)
    weights = triton_ops.prepare_weights(tuple(problem.w_gate_up_E2FD), tuple(problem.w_down_EDF))
    assert torch.equal(weights.gate_up, problem.w_gate_up_E2FD)


@pytest.mark.parametrize(("rows", "keys"), [(0, 3), (1, 1), (129, 3), (300, 70)])
def test_grouping_over_several_blocks(triton_ops, rows, keys):
    ids = torch.randint(keys, (rows,), generator=torch.Generator().manual_seed(rows)).to(DEVICE)
    assert all(map(torch.equal, triton_ops.group_by_expert(ids, keys), reference.group_by_expert(ids, keys)))


def test_sum_rows_keeps_row_order(triton_ops):
    y = torch.tensor([[1e8], [-1e8], [1.0]], device=DEVICE)
    assert triton_ops.sum_rows(y, torch.tensor([1, 1, 1], device=DEVICE), 3).flatten().tolist() == [0.0, 1.0, 0.0]


def test_sum_rows_over_several_column_blocks(triton_ops, monkeypatch):
    monkeypatch.setattr(triton_permute, "_MAX_BLOCK_D", 16)
    y, token = torch.randn(9, 40, device=DEVICE), torch.tensor([2, 0, 2, 2, 0, 3, 3, 3, 0], device=DEVICE)
    assert_near(triton_ops.sum_rows(y, token, 4), reference.sum_rows(y, token, 4), torch.float32)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(0, 4, 2), (1, 1, 1), (3, 5, 3), (33, 7, 7), (2, 130, 8)])
def test_gate(triton_ops, tokens, experts, top_k, dtype, normalize):
    # Distinct logits, exact in every format: which expert wins a tie is not the reference's promise.
    rng = torch.Generator().manual_seed(tokens)
    logits = torch.rand(tokens, experts, generator=rng).argsort(dim=1).to(dtype).to(DEVICE) / 16
    weights, ids = triton_ops.gate_topk(logits, top_k, normalize)
    expected_weights, expected_ids = reference.gate_topk(logits, top_k, normalize)
    assert torch.equal(ids, expected_ids)
    assert_near(weights, expected_weights, torch.float32)


def test_gate_takes_the_lowest_of_equals(triton_ops):
    _, ids = triton_ops.gate_topk(torch.zeros(2, 6, device=DEVICE), 3, True)
    assert ids.tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter computes in numpy
def test_gate_keeps_ids_in_range_for_nan(triton_ops):
    weights, ids = triton_ops.gate_topk(torch.full((1, 5), torch.nan, device=DEVICE), 3, True)
    assert sorted(ids[0].tolist()) == [0, 1, 2]
    assert torch.isnan(weights).all()


# Experts, K, groups, groups that take part: DeepSeek-V3 and Kimi K2 in small, and none of them a power of two.
SIGMOID_GATES = [(32, 8, 8, 4), (24, 4, 1, 1), (15, 5, 5, 2), (6, 6, 3, 3), (2, 1, 1, 1)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(("experts", "top_k", "groups", "top_groups"), SIGMOID_GATES)
def test_sigmoid_gate(triton_ops, experts, top_k, groups, top_groups, corrected, dtype):
    rng = torch.Generator().manual_seed(experts)
    logits = (torch.rand(9, experts, generator=rng).argsort(dim=1).to(dtype) / 8 - 1).to(DEVICE)
    correction = torch.randn(experts, generator=rng).to(DEVICE) if corrected else None
    gate = reference.SigmoidGate(top_k, groups, top_groups, normalize=not corrected, scale=2.5)
    expected_weights, expected_ids = reference.gate_sigmoid(logits, correction, gate)
    weights, ids = triton_ops.gate_sigmoid(logits, correction, gate)
    order, expected_order = ids.argsort(dim=1), expected_ids.argsort(dim=1)
    assert torch.equal(ids.gather(1, order), expected_ids.gather(1, expected_order))
    assert_near(weights.gather(1, order), expected_weights.gather(1, expected_order), torch.float32)


def test_sigmoid_gate_takes_the_lowest_of_equals(triton_ops):
    """Of equal groups the first, of equal experts the first; without tokens nothing."""
    gate = reference.SigmoidGate(3, groups=3, top_groups=2)
    _, ids = triton_ops.gate_sigmoid(torch.zeros(2, 6, device=DEVICE), torch.zeros(6, device=DEVICE), gate)
    assert ids.tolist() == [[0, 1, 2]] * 2
    assert triton_ops.gate_sigmoid(torch.zeros(0, 6, device=DEVICE), None, gate)[1].shape == (0, 3)


@pytest.mark.filterwarnings("ignore:(invalid value|All-NaN):RuntimeWarning")  # the interpreter computes in numpy
def test_sigmoid_gate_keeps_ids_in_range_for_nan(triton_ops):
    logits = torch.zeros(2, 6, device=DEVICE)
    logits[1] = torch.nan
    weights, ids = triton_ops.gate_sigmoid(logits, None, reference.SigmoidGate(4, groups=3, top_groups=2))
    assert sorted(ids[1].tolist()) == [0, 1, 2, 3]
    assert weights.isnan().tolist() == [[False] * 4, [True] * 4]


@needs_gpu
def test_nothing_waits_for_the_device(triton_ops):
    problem = make(Case(33), torch.bfloat16, DEVICE)
    weights = triton_ops.prepare_weights(problem.w_gate_up_E2FD, problem.w_down_EDF)
    triton_ops.expert_ffn(problem.x_TD, weights, *problem.rows)
    torch.cuda.set_sync_debug_mode("error")
    try:
        triton_ops.expert_ffn(problem.x_TD, weights, *problem.rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_weights_beyond_two_billion_elements(triton_ops):
    case = Case(4, experts=33, hidden=4096, ffn=8192, top_k=1)
    w_gate_up = torch.zeros(case.experts, 2 * case.ffn, case.hidden, dtype=torch.bfloat16, device=DEVICE)
    w_down = torch.zeros(case.experts, case.hidden, case.ffn, dtype=torch.bfloat16, device=DEVICE)
    w_gate_up[-1].normal_(std=0.02)
    w_down[-1].normal_(std=0.02)
    x = torch.randn(case.tokens, case.hidden, device=DEVICE).bfloat16()
    token = torch.arange(case.tokens, device=DEVICE)
    rows = token, torch.full_like(token, case.experts - 1), torch.ones(case.tokens, device=DEVICE)
    last = reference.prepare_weights(w_gate_up[-1:], w_down[-1:])
    expected = reference.expert_ffn(x, last, token, torch.zeros_like(token), rows[2])
    assert_near(triton_ops.expert_ffn(x, triton_ops.prepare_weights(w_gate_up, w_down), *rows), expected, x.dtype)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter computes in numpy
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_broken_token_stays_alone(triton_ops, kind):
    problem = make(Case(7), torch.float32, DEVICE, kind)
    problem.x_TD[3] = torch.nan
    broken = triton_ops.expert_ffn(problem.x_TD, problem.prepare(triton_ops), *problem.rows).isnan()
    assert broken[3].all()
    assert broken.any(1).sum() == 1


@pairwise(case=[case for case in CASES if case.tokens in (0, 4, 7, 9)], dtype=DTYPES, form=FORMATS, kind=KINDS)
def test_quantized_experts(triton_ops, dtype, case, form, kind):
    problem = make(quantized_case(case, form), dtype, DEVICE, kind)
    packed = quantize(problem.w_gate_up_E2FD, form), quantize(problem.w_down_EDF, form)
    dense = (tuple(w.dense() for w in matrices) for matrices in packed)
    plain, ours = problem.prepare_with(reference, *dense), problem.prepare_with(triton_ops, *packed)
    assert ours.gate_up is packed[0]
    expected = reference.expert_ffn(problem.x_TD, plain, *problem.rows)
    assert_near(triton_ops.expert_ffn(problem.x_TD, ours, *problem.rows), expected, dtype)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_quantized_parts(triton_ops, dtype, form):
    problem = make(Case(9, experts=3, hidden=64, ffn=32), dtype, DEVICE)
    packed = quantize(problem.w_gate_up_E2FD, form), quantize(problem.w_down_EDF, form)
    token, expert, weight = problem.rows
    order, offsets = reference.group_by_expert(expert, 3)
    plain, ours = (problem.prepare_with(backend, *packed) for backend in (reference, triton_ops))
    h = reference.gate_up(problem.x_TD, plain, token[order], weight[order], offsets)
    assert_near(triton_ops.gate_up(problem.x_TD, ours, token[order], weight[order], offsets), h, dtype)
    y = reference.down(h, plain, offsets, weight[order])
    assert_near(triton_ops.down(h, ours, offsets, weight[order]), y, dtype)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_quantized_linear(triton_ops, dtype, form):
    x, w = torch.randn(5, 96, device=DEVICE).to(dtype), near_one(torch.randn(200, 96, device=DEVICE).to(dtype), form)
    assert triton_ops.prepare_matrix(w) is w
    assert_near(triton_ops.linear(x, w), (x.double() @ w.dense().double().T).to(dtype), dtype)


def test_triton_products_alone_refuse_quantized_matrices():
    problem = make(Case(2, experts=3, hidden=64, ffn=32), torch.float32, DEVICE)
    with pytest.raises(ValueError, match="take dense matrices"):
        triton_ffn.stacked(quantize(problem.w_down_EDF, "fp8"))
