"""Routings, forms of experts and tolerances that the tests of every backend share.

Legend: T tokens, K experts per token, E experts, N rows (token-expert pairs), D hidden, F ffn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.weights import PLAIN, Activation, ExpertForm, ExpertWeights

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# The largest error allowed, as a part of the largest value: a rounding or two; float32 also sums in another order.
TOLERANCE = {
    torch.float32: 32 * torch.finfo(torch.float32).eps,
    torch.bfloat16: 2 * torch.finfo(torch.bfloat16).eps,
    torch.float16: 2 * torch.finfo(torch.float16).eps,
}


@dataclass(frozen=True)
class Case:
    """One routing problem: sizes, and how tokens choose experts."""

    tokens: int
    routing: str = "topk"
    experts: int = 5
    hidden: int = 40
    ffn: int = 24
    top_k: int = 3

    def __str__(self) -> str:
        return f"{self.routing}-T{self.tokens}E{self.experts}D{self.hidden}F{self.ffn}K{self.top_k}"


@dataclass(frozen=True)
class Kind:
    """What sort of expert."""

    name: str
    form: ExpertForm = PLAIN
    biased: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Problem:
    """A case with its tensors; `rows` are the last three arguments of expert_ffn."""

    x_TD: Tensor
    w_gate_up_E2FD: Tensor
    w_down_EDF: Tensor
    rows: tuple[Tensor, Tensor, Tensor]
    form: ExpertForm = PLAIN
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None

    def prepare(self, backend) -> ExpertWeights:
        """The weights, as a backend (its ops or its module) wants them."""
        return self.prepare_with(backend, self.w_gate_up_E2FD, self.w_down_EDF)

    def prepare_with(self, backend, gate_up, down) -> ExpertWeights:
        """The same with other matrices."""
        return backend.prepare_weights(gate_up, down, self.form, self.gate_up_bias, self.down_bias)


PLAIN_KIND = Kind("silu")
# The limit of the fourth is one that most values reach; those of the last two do not belong to any model.
KINDS = (
    PLAIN_KIND,
    Kind("silu_biased", biased=True),
    Kind("gpt_oss", ExpertForm(Activation.CLAMPED_SWIGLU), biased=True),
    Kind("low_limit", ExpertForm(Activation.CLAMPED_SWIGLU, alpha=0.9, limit=0.4)),
    Kind("llama4", ExpertForm(weight_inputs=True)),
    Kind("everything", ExpertForm(Activation.CLAMPED_SWIGLU, limit=0.8, weight_inputs=True), biased=True),
)


CASES = (
    *(Case(tokens) for tokens in (0, 1, 2, 7, 33)),
    Case(7, "one_expert"),
    Case(33, "one_expert"),
    Case(7, "few_experts"),
    Case(33, "some_rows"),
    Case(4, "no_rows"),
    Case(5, "topk", experts=1, top_k=1),
    Case(9, "topk", experts=3, hidden=33, ffn=17, top_k=2),
    Case(6, "topk", experts=8, hidden=64, ffn=32, top_k=8),
    Case(3, "topk", experts=2, hidden=1, ffn=1, top_k=1),
)


def make(case: Case, dtype: torch.dtype, device: str = "cpu", kind: Kind = PLAIN_KIND) -> Problem:
    """The case's tensors, drawn from a seed of its own so that test order does not matter; values come out near 1."""
    rng = torch.Generator().manual_seed(case.tokens * 1000 + case.experts)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=rng) / shape[-1] ** 0.5).to(dtype).to(device)

    x_TD = (torch.randn(case.tokens, case.hidden, generator=rng)).to(dtype).to(device)
    weights = draw(case.experts, 2 * case.ffn, case.hidden), draw(case.experts, case.hidden, case.ffn)
    rows = tuple(t.to(device) for t in _rows(case, rng))
    biases = (draw(case.experts, 2 * case.ffn), draw(case.experts, case.hidden)) if kind.biased else (None, None)
    return Problem(x_TD, *weights, rows, kind.form, *biases)  # type: ignore[arg-type]


def _rows(case: Case, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    token_N = torch.arange(case.tokens).repeat_interleave(case.top_k)
    weight_N = torch.rand(len(token_N), generator=rng)
    scores_TE = torch.rand(case.tokens, case.experts, generator=rng)
    if case.routing == "few_experts":
        scores_TE[:, 1:-2] = -1.0
    expert_N = scores_TE.topk(case.top_k, dim=1).indices.flatten()
    if case.routing == "one_expert":
        expert_N = torch.full_like(expert_N, case.experts // 2)
    if case.routing == "some_rows":
        # As on a shard that holds a part of the experts: tokens without rows, rows in no order.
        keep = torch.randperm(len(token_N), generator=rng)[: len(token_N) // 3]
        return token_N[keep], expert_N[keep], weight_N[keep]
    kept = 0 if case.routing == "no_rows" else len(token_N)
    return token_N[:kept], expert_N[:kept], weight_N[:kept]


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Equal shape and dtype, and no error beyond what `dtype` explains."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.numel():
        error = (actual.double() - expected.double()).abs().max().item()
        assert error <= TOLERANCE[dtype] * max(expected.double().abs().max().item(), 1e-3), error
