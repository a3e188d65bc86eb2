"""The gating rules: what each promises, for any logits, and transformers' own gates on the same ones, ties included."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from experts.routing import LOST
from kernels import select
from router_service.engine.step.gating import choose, route
from router_service.models.spec import Gate, Rule
from tests.support.oracle import watched_gates
from tests.support.tiny import make_model

OPS = select.ops("cpu")


@st.composite
def problems(draw: st.DrawFn, rule: Rule) -> tuple[Gate, Tensor, Tensor | None]:
    """A gate, logits of a few values (so that ties are many) or of any, and a correction."""
    groups = draw(st.integers(1, 5)) if rule is Rule.SIGMOID_GROUPS else 1
    experts = groups * draw(st.integers(2, 9))
    top_groups = draw(st.integers(1, groups))
    top_k = draw(st.integers(1, top_groups * (experts // groups)))
    values = st.integers(-3, 3).map(float) if draw(st.booleans()) else st.floats(-30, 30, width=32)
    tokens = draw(st.integers(1, 4))
    logits_TE = torch.tensor(draw(st.lists(values, min_size=tokens * experts, max_size=tokens * experts)))
    correction_E = torch.tensor(draw(st.lists(st.floats(-2, 2, width=32), min_size=experts, max_size=experts)))
    gate = Gate(experts, top_k, rule, draw(st.booleans()), draw(st.sampled_from([1.0, 2.5])), groups, top_groups)
    return gate, logits_TE.view(tokens, experts), correction_E if rule is Rule.SIGMOID_GROUPS else None


def chosen_of(problem: tuple[Gate, Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
    gate, logits_TE, correction_E = problem
    weights_TK, ids_TK = choose(gate, logits_TE, OPS, correction_E)
    assert weights_TK.dtype == torch.float32
    assert weights_TK.shape == ids_TK.shape == (len(logits_TE), gate.top_k)
    assert all(len(set(row)) == gate.top_k for row in ids_TK.tolist())
    return weights_TK, ids_TK


def assert_the_top_ones(scores_TE: Tensor, ids_TK: Tensor) -> None:
    """Nobody who was left out scores higher than anybody chosen."""
    left_out_TE = scores_TE.scatter(1, ids_TK, float("-inf"))
    assert (scores_TE.gather(1, ids_TK).amin(1) >= left_out_TE.amax(1)).all()


@settings(deadline=None)
@given(problems(Rule.SOFTMAX_TOPK))
def test_softmax_topk(problem: tuple[Gate, Tensor, None]) -> None:
    gate, logits_TE, _ = problem
    weights_TK, ids_TK = chosen_of(problem)
    shares_TE = logits_TE.double().softmax(-1)
    assert_the_top_ones(logits_TE.softmax(-1), ids_TK)
    expected_TK = shares_TE.gather(1, ids_TK)
    if gate.normalize:
        expected_TK = expected_TK / expected_TK.sum(1, keepdim=True)
        assert torch.allclose(weights_TK.sum(1), torch.ones(len(weights_TK)), atol=1e-5)
    torch.testing.assert_close(weights_TK.double(), expected_TK, rtol=1e-4, atol=1e-7)


@settings(deadline=None)
@given(problems(Rule.TOPK_SOFTMAX))
def test_topk_softmax(problem: tuple[Gate, Tensor, None]) -> None:
    weights_TK, ids_TK = chosen_of(problem)
    assert_the_top_ones(problem[1], ids_TK)
    assert torch.allclose(weights_TK.sum(1), torch.ones(len(weights_TK)), atol=1e-5)
    expected_TK = problem[1].double().gather(1, ids_TK).softmax(-1)
    torch.testing.assert_close(weights_TK.double(), expected_TK, rtol=1e-4, atol=1e-7)


@settings(deadline=None)
@given(problems(Rule.TOPK_SIGMOID))
def test_topk_sigmoid(problem: tuple[Gate, Tensor, None]) -> None:
    weights_TK, ids_TK = chosen_of(problem)
    assert_the_top_ones(problem[1], ids_TK)
    expected_TK = problem[1].double().gather(1, ids_TK).sigmoid()
    torch.testing.assert_close(weights_TK.double(), expected_TK, rtol=1e-4, atol=1e-7)


@settings(deadline=None)
@given(problems(Rule.SIGMOID_GROUPS))
def test_sigmoid_groups(problem: tuple[Gate, Tensor, Tensor]) -> None:
    gate, logits_TE, correction_E = problem
    weights_TK, ids_TK = chosen_of(problem)
    corrected_TE = logits_TE.sigmoid() + correction_E
    size = gate.experts // gate.groups
    for row, ids in enumerate(ids_TK.tolist()):
        by_group = [sorted(corrected_TE[row, g * size : (g + 1) * size].tolist())[-2:] for g in range(gate.groups)]
        # Summed in float32, as the scores are.
        sums = [float(np.float32(pair[0]) + np.float32(pair[1])) for pair in by_group]
        used = {id // size for id in ids}
        assert len(used) <= gate.top_groups
        bound = sorted(sums, reverse=True)[gate.top_groups - 1]
        assert all(sums[group] >= bound for group in used)
        # Every better expert that was left out is in a group that is no better than the worst that may be used.
        worst = min(corrected_TE[row, id].item() for id in ids)
        for other in set(range(gate.experts)) - set(ids):
            if corrected_TE[row, other] > worst:
                assert other // size not in used
                assert sums[other // size] <= bound
    expected_TK = logits_TE.double().sigmoid().gather(1, ids_TK)
    if gate.normalize:
        expected_TK = expected_TK / (expected_TK.sum(1, keepdim=True) + 1e-20)
    torch.testing.assert_close(weights_TK.double(), expected_TK * gate.scale, rtol=1e-4, atol=1e-7)


def test_the_correction_chooses_and_does_not_weigh() -> None:
    gate = Gate(4, 1, Rule.SIGMOID_GROUPS)
    weights_TK, ids_TK = choose(gate, torch.zeros(1, 4), OPS, torch.tensor([0.0, 0.0, 0.3, 0.0]))
    assert (ids_TK.item(), weights_TK.item()) == (2, 0.5)


def test_lost_tokens_are_sent_nowhere() -> None:
    routing = route(Gate(4, 2, Rule.TOPK_SOFTMAX), torch.randn(3, 4), OPS, np.array([False, True, False]))
    assert (routing.expert_ids_TK[1] == LOST).all()
    assert (routing.expert_ids_TK[[0, 2]] >= 0).all()


# Families whose gate is one of the rules, and the variants that change it.
GATES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {"num_local_experts": 12, "num_experts_per_tok": 5}),
    "qwen2": ("qwen2_moe", {"num_experts": 12, "num_experts_per_tok": 5}),
    "qwen3": ("qwen3_moe", {"num_experts": 12, "num_experts_per_tok": 5}),
    "olmoe": ("olmoe", {"num_experts": 12, "num_experts_per_tok": 5}),
    "deepseek groups": ("deepseek_v3", {"n_group": 4, "topk_group": 2, "num_experts_per_tok": 5}),
    "deepseek one group": ("deepseek_v3", {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 5}),
    "llama4": ("llama4", {"num_local_experts": 12}),
    "llama4 top-3": ("llama4", {"num_local_experts": 12, "num_experts_per_tok": 3}),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 12, "num_experts_per_tok": 5}),
}


@pytest.mark.parametrize("kind", ["tied", "all equal", "random", "bfloat16"])
@pytest.mark.parametrize("name", GATES)
def test_decisions_are_those_of_transformers(name: str, kind: str, tiny: Callable[..., Any]) -> None:
    """Its own gate module, fed rows that make the logits we want: its weight is set to the identity."""
    family, changes = GATES[name]
    gate = tiny(family, **changes).plan.spec.gate
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    model = make_model(family, **changes).to(dtype)
    logits_TE = logits_of(kind, gate.experts).to(dtype)
    module = next(m for m in model.modules() if type(m).__name__.endswith(("TopKRouter", "TopkRouter", "Llama4Router")))
    correction_E = set_identity(module, gate)
    rows_TD = torch.zeros(len(logits_TE), model.config.hidden_size, dtype=dtype)
    rows_TD[:, : gate.experts] = logits_TE
    with torch.inference_mode(), watched_gates(model) as seen:
        module(rows_TD)
        ours_TE = logits_TE.float() if gate.float32 else logits_TE
        weights_TK, ids_TK = choose(gate, ours_TE, OPS, correction_E)
    ((their_ids_TK, their_weights_TK),) = seen
    assert ids_TK.tolist() == their_ids_TK.tolist()
    torch.testing.assert_close(weights_TK.to(their_weights_TK.dtype), their_weights_TK, rtol=0, atol=0)


def logits_of(kind: str, experts: int) -> Tensor:
    random = torch.Generator().manual_seed(len(kind))
    if kind == "tied":
        return torch.randint(-2, 3, (200, experts), generator=random).float()
    return torch.zeros(3, experts) if kind == "all equal" else torch.randn(200, experts, generator=random) * 3


@torch.no_grad()
def set_identity(module: Any, gate: Gate) -> Tensor | None:
    """Make the gate return its input as logits; return its correction, drawn from three values so that sums tie."""
    module.weight.zero_()
    module.weight[:, : gate.experts] = torch.eye(gate.experts)
    if gate.bias:
        module.bias.zero_()
    if not gate.correction:
        return None
    module.e_score_correction_bias.copy_(torch.randint(-1, 2, (gate.experts,)) / 4)
    return module.e_score_correction_bias.float()
