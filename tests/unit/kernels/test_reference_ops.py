"""The reference against the formulas written out token by token, and its answers at the edges."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from kernels import reference
from kernels.select import ops
from kernels.weights import Activation, ExpertForm
from tests.unit.kernels.kernel_cases import CASES, DTYPES, KINDS, Case, assert_near, make
from tests.unit.kernels.pairwise import pairwise


def by_hand(problem) -> torch.Tensor:
    """The layer's definition in float64: no grouping, no batching."""
    y_TD, experts = torch.zeros(problem.x_TD.shape, dtype=torch.float64), len(problem.w_down_EDF)
    b_gate_up, b_down = problem.gate_up_bias, problem.down_bias
    b_gate_up = torch.zeros(experts, problem.w_gate_up_E2FD.shape[1]) if b_gate_up is None else b_gate_up
    b_down = torch.zeros(experts, problem.w_down_EDF.shape[1]) if b_down is None else b_down
    for token, e, weight in zip(*(t.tolist() for t in problem.rows), strict=True):
        before, after = (weight, 1.0) if problem.form.weight_inputs else (1.0, weight)
        x = (before * problem.x_TD[token].double()).to(problem.x_TD.dtype).double()
        gate, up = (problem.w_gate_up_E2FD[e].double() @ x + b_gate_up[e].double()).chunk(2)
        y = problem.w_down_EDF[e].double() @ activated(gate, up, problem.form) + b_down[e].double()
        y_TD[token] += after * y
    return y_TD


def activated(gate: torch.Tensor, up: torch.Tensor, form: ExpertForm) -> torch.Tensor:
    if form.activation == "silu":
        return gate / (1 + torch.exp(-gate)) * up
    gate, up = gate.clip(max=form.limit), up.clip(min=-form.limit, max=form.limit)
    return (up + 1) * gate / (1 + torch.exp(-form.alpha * gate))


@pairwise(case=CASES, dtype=DTYPES, kind=KINDS)
def test_expert_ffn_is_the_weighted_sum_of_experts(case, dtype, kind):
    problem = make(case, dtype, kind=kind)
    actual = reference.expert_ffn(problem.x_TD, problem.prepare(reference), *problem.rows)
    assert actual.dtype == torch.float32
    assert_near(actual.double(), by_hand(problem), dtype)


@pairwise(case=CASES, dtype=DTYPES, kind=KINDS)
def test_expert_rows_are_what_expert_ffn_adds_up(case, dtype, kind):
    problem = make(case, dtype, kind=kind)
    weights, (token, expert, weight) = problem.prepare(reference), problem.rows
    y_ND = reference.expert_rows(problem.x_TD, weights, token, expert, weight)
    order, _ = reference.group_by_expert(expert, case.experts)
    total = reference.sum_rows(y_ND[order], token[order], case.tokens)
    assert_near(total, reference.expert_ffn(problem.x_TD, weights, *problem.rows), dtype)


def test_a_row_by_itself_has_the_same_bits():
    problem = make(Case(33), torch.bfloat16)
    weights = problem.prepare(reference)
    y_ND = reference.expert_rows(problem.x_TD, weights, *problem.rows)
    for row in range(0, len(y_ND), 7):
        one = reference.expert_rows(problem.x_TD, weights, *(t[row, None] for t in problem.rows))
        assert torch.equal(one[0], y_ND[row])


@pytest.mark.parametrize("biased", [False, True])
def test_the_forms_differ(biased):
    kinds = [kind for kind in KINDS if kind.biased == biased]
    problems = [make(Case(7), torch.float32, kind=kind) for kind in kinds]
    outputs = [reference.expert_ffn(p.x_TD, p.prepare(reference), *p.rows) for p in problems]
    assert all((a - b).abs().max() > 1e-2 for a, b in combinations(outputs, 2))


def test_clamped_activation_at_chosen_values():
    gate, up = torch.tensor([9.0, -9.0, 2.0, math.nan, 1.0]), torch.tensor([9.0, -9.0, 0.5, 1.0, math.nan])
    h = reference.activate(gate, up, ExpertForm(Activation.CLAMPED_SWIGLU))
    sigmoid = [1 / (1 + math.exp(-1.702 * value)) for value in (7, -9, 2)]
    torch.testing.assert_close(h[:3], torch.tensor([8 * 7 * sigmoid[0], -6 * -9 * sigmoid[1], 1.5 * 2 * sigmoid[2]]))
    assert torch.isnan(h[3:]).all()


@pytest.mark.parametrize("limit", [0.0, -7.0, math.nan])
def test_impossible_limit_is_refused(limit):
    with pytest.raises(ValueError, match="limit"):
        ExpertForm(limit=limit)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_biases_that_do_not_fit_are_refused(backend):
    gate_up, down = torch.zeros(2, 6, 4), torch.zeros(2, 4, 3)
    bad = {
        "gate_up_bias": (torch.zeros(2, 3), torch.zeros(1, 6), torch.zeros(2, 6, 1), torch.zeros(2, 6).half()),
        "down_bias": (torch.zeros(2, 3), torch.zeros(3, 4), torch.zeros(8), torch.zeros(2, 4).double()),
    }
    for name, biases in bad.items():
        for bias in biases:
            with pytest.raises(ValueError, match=f"{name} must be"):
                ops(backend).prepare_weights(gate_up, down, **{name: bias})


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


def test_sigmoid_gate_takes_the_best_of_the_best_groups():
    """The second group has the best pair, though the best expert is in the first; the correction is not in weights."""
    logits = torch.logit(torch.tensor([[0.8, 0.1, 0.6, 0.5]]))
    gate = reference.SigmoidGate(1, groups=2, top_groups=1, normalize=False, scale=2.0)
    weights, ids = reference.gate_sigmoid(logits, None, gate)
    assert ids.tolist() == [[2]]
    torch.testing.assert_close(weights, torch.tensor([[1.2]]))
    weights, ids = reference.gate_sigmoid(logits, torch.tensor([0.0, 0.0, 0.0, 0.3]), gate)
    assert ids.tolist() == [[3]]
    torch.testing.assert_close(weights, torch.tensor([[1.0]]))


@pytest.mark.parametrize("groups", [3, 4])
def test_sigmoid_gate_refuses_groups_that_do_not_fit(groups):
    with pytest.raises(ValueError, match="equal groups"):
        reference.gate_sigmoid(torch.zeros(2, 4), None, reference.SigmoidGate(1, groups))


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
        for op in (reference.expert_ffn, reference.expert_rows):
            with pytest.raises(ValueError, match=r"fit|must be"):
                op(x, weights, *rows)
