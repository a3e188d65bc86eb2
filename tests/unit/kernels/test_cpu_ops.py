"""The CPU path against the reference, with and without packed weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import reference
from kernels.cpu import linear as cpu_linear
from kernels.cpu import ops as cpu
from tests.unit.kernels.kernel_cases import CASES, DTYPES, KINDS, Case, assert_near, make
from tests.unit.kernels.pairwise import pairwise


@pytest.fixture(params=["packed", "dense"])
def packing(request, monkeypatch):
    """Both forms of weights, since which one a machine takes depends on its CPU."""
    if request.param == "dense":
        monkeypatch.setattr(cpu_linear, "_can_pack", lambda _dtype: False)


def both(problem):
    return problem.prepare(cpu), problem.prepare(reference)


@pytest.mark.usefixtures("packing")
@pairwise(case=CASES, dtype=DTYPES, kind=KINDS)
def test_expert_ffn(case, dtype, kind):
    problem = make(case, dtype, kind=kind)
    fast, plain = both(problem)
    expected = reference.expert_ffn(problem.x_TD, plain, *problem.rows)
    assert_near(cpu.expert_ffn(problem.x_TD, fast, *problem.rows), expected, dtype)


@pytest.mark.usefixtures("packing")
@pairwise(case=CASES, dtype=DTYPES, kind=KINDS)
def test_expert_rows(case, dtype, kind):
    problem = make(case, dtype, kind=kind)
    fast, plain = both(problem)
    expected = reference.expert_rows(problem.x_TD, plain, *problem.rows)
    assert_near(cpu.expert_rows(problem.x_TD, fast, *problem.rows), expected, dtype)


@pairwise(case=CASES, dtype=DTYPES, kind=KINDS)
def test_parts(case, dtype, kind):
    problem = make(case, dtype, kind=kind)
    fast, plain = both(problem)
    token, expert, weight = problem.rows
    order, offsets = cpu.group_by_expert(expert, case.experts)
    expected_order, expected_offsets = reference.group_by_expert(expert, case.experts)
    assert torch.equal(order, expected_order)
    assert torch.equal(offsets, expected_offsets)
    h = reference.gate_up(problem.x_TD, plain, token[order], weight[order], offsets)
    assert_near(cpu.gate_up(problem.x_TD, fast, token[order], weight[order], offsets), h, dtype)
    y = reference.down(h, plain, offsets, weight[order])
    assert_near(cpu.down(h, fast, offsets, weight[order]), y, dtype)
    total = reference.sum_rows(y, token[order], case.tokens)
    assert_near(cpu.sum_rows(y, token[order], case.tokens), total, torch.float32)


@st.composite
def shard_rows(draw):
    """Any rows: repeated pairs, no order, tokens and experts without rows."""
    tokens, experts = draw(st.integers(1, 40)), draw(st.integers(1, 9))
    pairs = draw(st.lists(st.tuples(st.integers(0, tokens - 1), st.integers(0, experts - 1)), max_size=120))
    return tokens, experts, pairs


@settings(deadline=None, max_examples=40)
@given(shard_rows())
def test_any_routing(problem):
    tokens, experts, pairs = problem
    rng = torch.Generator().manual_seed(len(pairs))
    token, expert = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
    x, weight = torch.randn(tokens, 12, generator=rng), torch.randn(len(pairs), generator=rng)
    matrices = torch.randn(experts, 14, 12, generator=rng) / 3, torch.randn(experts, 12, 7, generator=rng) / 3
    expected = reference.expert_ffn(x, reference.prepare_weights(*matrices), token, expert, weight)
    actual = cpu.expert_ffn(x, cpu.prepare_weights(*matrices), token, expert, weight)
    # Many rows of one token may cancel: the error is that of the terms, not of their sum.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * max(1, len(pairs)) ** 0.5)


def test_rows_sorted_or_not_give_the_same_bits():
    problem = make(Case(33), torch.bfloat16)
    weights, _ = both(problem)
    order, _ = cpu.group_by_expert(problem.rows[1], 5)
    by_token = cpu.expert_ffn(problem.x_TD, weights, *problem.rows)
    assert torch.equal(by_token, cpu.expert_ffn(problem.x_TD, weights, *(t[order] for t in problem.rows)))


def test_sum_rows_keeps_row_order():
    y = torch.tensor([[1e8], [-1e8], [1.0]])
    assert cpu.sum_rows(y, torch.tensor([1, 1, 1]), 3).flatten().tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_broken_token_stays_alone(kind):
    problem = make(Case(33), torch.float32, kind=kind)
    weights, _ = both(problem)
    before = cpu.expert_ffn(problem.x_TD, weights, *problem.rows)
    problem.x_TD[5] = torch.nan
    after = cpu.expert_ffn(problem.x_TD, weights, *problem.rows)
    others = torch.arange(33) != 5
    assert torch.isnan(after[5]).all()
    assert torch.equal(before[others], after[others])


@pytest.mark.parametrize("expert", [-1, 5])
def test_expert_out_of_range_is_refused(expert):
    problem = make(Case(2), torch.float32)
    weights, _ = both(problem)
    token, ids, weight = problem.rows
    ids[1] = expert
    for op in (cpu.expert_ffn, cpu.expert_rows):
        with pytest.raises(ValueError, match=r"0\.\.4"):
            op(problem.x_TD, weights, token, ids, weight)


@pytest.mark.parametrize("token", [-1, 2])
def test_token_out_of_range_is_refused(token):
    problem = make(Case(2), torch.float32)
    weights, _ = both(problem)
    problem.rows[0][0] = token
    for op in (cpu.expert_ffn, cpu.expert_rows):
        with pytest.raises(IndexError):
            op(problem.x_TD, weights, *problem.rows)


def test_packed_experts_can_be_regrouped():
    problem = make(Case(7), torch.bfloat16)
    weights, _ = both(problem)
    moved = cpu.prepare_weights(tuple(weights.gate_up)[::-1], tuple(weights.down)[::-1])
    token, expert, weight = problem.rows
    expected = cpu.expert_ffn(problem.x_TD, weights, token, expert, weight)
    assert_near(cpu.expert_ffn(problem.x_TD, moved, token, 4 - expert, weight), expected, torch.float32)
    assert (weights.num_experts, weights.hidden, weights.ffn) == (5, 40, 24)


@given(st.integers(0, 100_000))
def test_padding_is_small_and_settled(rows):
    size = cpu_linear.padded(rows)
    assert rows <= size <= rows + rows // 8
    assert cpu_linear.padded(size) == size


def test_row_counts_share_few_primitives():
    assert len({cpu_linear.padded(rows) for rows in range(1, 4097)}) <= 15 + 8 * 9


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 3, 17, 33])
def test_linear(rows, dtype):
    x, w = torch.randn(rows, 24).to(dtype), torch.randn(40, 24).to(dtype)
    expected = (x.double() @ w.double().T).to(dtype)
    assert_near(cpu_linear.linear_any_rows(x, cpu_linear.prepare_matrix(w)), expected, dtype)


def test_expert_ffn_keeps_to_the_shared_row_counts(monkeypatch):
    seen = set()

    def spy(x, w, bias):
        seen.add(len(x))
        return cpu_linear.linear(x, w, bias)

    monkeypatch.setattr(cpu, "linear", spy)
    for tokens in range(40, 60):
        problem = make(Case(tokens, experts=2, top_k=2), torch.float32)
        cpu.expert_ffn(problem.x_TD, both(problem)[0], *problem.rows)
    assert seen == {cpu_linear.padded(tokens) for tokens in range(40, 60)}
