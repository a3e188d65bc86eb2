"""The reference against the formulas written out token by token, and its answers at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_cases import CASES, Case, assert_near, make

from kernels import reference


def by_hand(problem) -> torch.Tensor:
    """The layer's definition: no grouping, no batching."""
    y_TD = torch.zeros(problem.x_TD.shape)
    for token, expert, weight in zip(*(t.tolist() for t in problem.rows), strict=True):
        gate, up = (problem.w_gate_up_E2FD[expert] @ problem.x_TD[token]).chunk(2)
        y_TD[token] += weight * (problem.w_down_EDF[expert] @ (gate / (1 + torch.exp(-gate)) * up))
    return y_TD


@pytest.mark.parametrize("case", CASES, ids=str)
def test_expert_ffn_is_the_weighted_sum_of_experts(case):
    problem = make(case, torch.float32)
    weights = reference.prepare_weights(problem.w_gate_up_E2FD, problem.w_down_EDF)
    assert_near(reference.expert_ffn(problem.x_TD, weights, *problem.rows), by_hand(problem), torch.float32)


def test_gate_is_softmax_then_topk():
    logits = torch.tensor([[0.0, math.log(3.0), math.log(4.0)]])
    weights, ids = reference.gate_topk(logits, 2, normalize=False)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.375]]))
    assert ids.tolist() == [[2, 1]]
    assert ids.dtype == torch.int64
    weights, _ = reference.gate_topk(logits.bfloat16(), 2, normalize=True)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("top_k", [0, 4])
def test_gate_refuses_an_impossible_top_k(top_k):
    with pytest.raises(ValueError, match="top_k"):
        reference.gate_topk(torch.zeros(2, 3), top_k, normalize=True)


def test_grouping_is_stable():
    order, offsets = reference.group_by_expert(torch.tensor([2, 0, 2, 0, 3]), 5)
    assert order.tolist() == [1, 3, 0, 2, 4]
    assert offsets.tolist() == [0, 2, 2, 4, 5, 5]


@pytest.mark.parametrize("ids", [[0, 3], [-1, 0]])
def test_grouping_refuses_ids_out_of_range(ids):
    with pytest.raises(ValueError, match=r"0\.\.2"):
        reference.group_by_expert(torch.tensor(ids), 3)


def test_sum_rows_keeps_row_order():
    # Only in this order do the first two cancel before the small one is added.
    y = torch.tensor([[1e8], [-1e8], [1.0]])
    assert reference.sum_rows(y, torch.tensor([1, 1, 1]), 3).flatten().tolist() == [0.0, 1.0, 0.0]


def test_weights_that_do_not_fit_are_refused():
    gate_up, down = torch.zeros(2, 6, 4), torch.zeros(2, 4, 3)
    for bad in ((gate_up[:1], down), (gate_up, down[:, :, :2]), (gate_up.half(), down), (gate_up[:0], down[:0])):
        with pytest.raises(ValueError, match=r"expert|matrices|gate-up"):
            reference.prepare_weights(*bad)


def test_rows_that_do_not_fit_are_refused():
    problem = make(Case(3), torch.float32)
    weights = reference.prepare_weights(problem.w_gate_up_E2FD, problem.w_down_EDF)
    token, expert, weight = problem.rows
    bad_calls = (
        (problem.x_TD.half(), token, expert, weight),
        (problem.x_TD[:, :-1], token, expert, weight),
        (problem.x_TD, token[:-1], expert, weight),
        (problem.x_TD, token.int(), expert, weight),
        (problem.x_TD, token, expert, weight.half()),
    )
    for x, *rows in bad_calls:
        with pytest.raises(ValueError, match=r"fit|must be"):
            reference.expert_ffn(x, weights, *rows)
