"""Choosing among living experts: each rule against the same rule in plain words, for any logits and dead sets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.routing import LOST, Routing
from kernels import select
from router_service.engine.step.gating import choose
from router_service.engine.step.living import choose_living, without
from router_service.models.spec import Gate, Rule
from tests.support.bereft import gate_row

OPS = select.ops("cpu")
# Logits that differ by less than a rounding would make two choices right.
STEP = 1 / 16


@st.composite
def gates(draw: st.DrawFn) -> Gate:
    rule = draw(st.sampled_from(list(Rule)))
    groups = draw(st.integers(1, 4)) if rule is Rule.SIGMOID_GROUPS else 1
    experts = groups * draw(st.integers(2, 6))
    top_groups = draw(st.integers(1, groups))
    top_k = draw(st.integers(1, top_groups * (experts // groups)))
    scale = draw(st.sampled_from([1.0, 2.5])) if rule is Rule.SIGMOID_GROUPS else 1.0
    normalize = draw(st.booleans()) if rule in (Rule.SOFTMAX_TOPK, Rule.SIGMOID_GROUPS) else False
    return Gate(experts, top_k, rule, normalize, scale, groups, top_groups)


@settings(deadline=None, max_examples=300)
@given(gate=gates(), data=st.data())
def test_the_rule_with_the_dead_experts_left_out(gate: Gate, data: st.DataObject) -> None:
    steps = st.lists(st.integers(-96, 96), min_size=gate.experts, max_size=gate.experts, unique=True)
    logits = [value * STEP for value in data.draw(steps, label="logits")]
    dead = data.draw(st.sets(st.integers(0, gate.experts - 1)), label="dead")
    dead_E = np.isin(np.arange(gate.experts), list(dead))
    routing = choose_living(gate, torch.tensor([logits]), dead_E, None)
    expected = gate_row(gate, logits, [0.0] * gate.experts, dead)
    ids, weights = routing.expert_ids_TK[0].tolist(), routing.weights_TK[0].tolist()
    assert {expert for expert in ids if expert != LOST} == set(expected)
    assert ids.count(LOST) == gate.top_k - len(expected)
    for expert, weight in zip(ids, weights, strict=True):
        assert weight == pytest.approx(expected.get(expert, 0.0), rel=1e-4, abs=1e-9)
    assert (routing.expert_ids_TK.dtype, routing.weights_TK.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("rule", Rule)
def test_with_all_alive_it_is_the_gates_own_choice(rule: Rule) -> None:
    gate = Gate(12, 3, rule, True, 2.5, 4, 2) if rule is Rule.SIGMOID_GROUPS else Gate(12, 3, rule, True)
    logits_TE, correction_E = torch.randn(50, 12), torch.randn(12) / 4
    correction = correction_E if rule is Rule.SIGMOID_GROUPS else None
    weights_TK, ids_TK = choose(gate, logits_TE, OPS, correction)
    routing = choose_living(gate, logits_TE, np.zeros(12, bool), correction)
    for ours, weights, theirs, their_weights in zip(
        routing.expert_ids_TK.tolist(), routing.weights_TK, ids_TK.tolist(), weights_TK.numpy(), strict=True
    ):
        assert sorted(ours) == sorted(theirs)
        np.testing.assert_allclose(weights[np.argsort(ours)], their_weights[np.argsort(theirs)], rtol=1e-5)


@settings(deadline=None)
@given(data=st.data())
def test_the_weights_that_are_left_keep_the_sum(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5)), label="tokens, experts")
    size = shape[0] * shape[1]
    values = data.draw(st.lists(st.floats(0, 3, width=32), min_size=size, max_size=size), label="weights")
    gone = data.draw(st.lists(st.booleans(), min_size=size, max_size=size), label="gone")
    weights_TK, gone_TK = np.array(values, np.float32).reshape(shape), np.array(gone).reshape(shape)
    ids_TK = np.arange(size).reshape(shape)
    left, scale_T = without(Routing(ids_TK, weights_TK), gone_TK)
    for token in range(shape[0]):
        kept = weights_TK[token][~gone_TK[token]]
        if not gone_TK[token].any():
            assert left.weights_TK[token].tobytes() == weights_TK[token].tobytes()
            assert left.expert_ids_TK[token].tolist() == ids_TK[token].tolist()
        elif scale_T[token] == 0:
            assert kept.sum() <= 1e-20 * weights_TK[token].sum()
            assert set(left.expert_ids_TK[token].tolist()) == {LOST}
            assert not left.weights_TK[token].any()
        else:
            assert left.weights_TK[token].sum() == pytest.approx(weights_TK[token].sum(), rel=1e-5)
            assert ((left.expert_ids_TK[token] == LOST) == gone_TK[token]).all()
            np.testing.assert_allclose(left.weights_TK[token][~gone_TK[token]], kept * scale_T[token], rtol=1e-5)


def test_a_dead_expert_that_had_all_the_weight_leaves_numbers() -> None:
    """The living ones' shares of a softmax over all are zeros here; among themselves they are not."""
    gate, dead_E = Gate(3, 2, Rule.SOFTMAX_TOPK, normalize=True), np.array([True, False, False])
    routing = choose_living(gate, torch.tensor([[300.0, 1.0, 0.0]]), dead_E, None)
    assert routing.expert_ids_TK.tolist() == [[1, 2]]
    assert routing.weights_TK[0].tolist() == pytest.approx([0.7311, 0.2689], abs=1e-4)
