"""What a model of transformers computes when experts are missing, by each policy in plain words, row by row.

Independent of the engine: the gates' rules are written down once more, without tensors.
"""

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from router_service.models.spec import Gate, Rule
from router_service.protocol.fallback import Fallback

# Of a position, the experts that are missing when it is computed.
DeadAt = Callable[[int], Collection[int]]
GATES = ("TopKRouter", "TopkRouter", "Llama4Router")


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softmax(values: list[float]) -> list[float]:
    shifted = [math.exp(value - max(values)) for value in values]
    return [value / sum(shifted) for value in shifted]


def gate_row(gate: Gate, logits: list[float], correction: list[float], banned: Collection[int]) -> dict[int, float]:
    """The weights of the experts that the gate chooses for a token, none of them banned."""
    shares = softmax(logits)
    rank = {
        Rule.SOFTMAX_TOPK: shares,
        Rule.TOPK_SOFTMAX: logits,
        Rule.TOPK_SIGMOID: logits,
        Rule.SIGMOID_GROUPS: [sigmoid(a) + b for a, b in zip(logits, correction, strict=True)],
    }[gate.rule]
    allowed = [expert for expert in range(gate.experts) if expert not in banned]
    if gate.groups > 1:
        allowed = in_best_groups(gate, rank, allowed)
    chosen = sorted(allowed, key=lambda expert: -rank[expert])[: gate.top_k]
    if not chosen:
        return {}
    if gate.rule is Rule.TOPK_SOFTMAX:
        return dict(zip(chosen, softmax([logits[expert] for expert in chosen]), strict=True))
    weigh = shares if gate.rule is Rule.SOFTMAX_TOPK else [sigmoid(value) for value in logits]
    total = sum(weigh[expert] for expert in chosen) if gate.normalize else 1.0
    return {expert: weigh[expert] / total * gate.scale for expert in chosen}


def in_best_groups(gate: Gate, rank: list[float], allowed: list[int]) -> list[int]:
    size = gate.experts // gate.groups
    by_group = [[expert for expert in allowed if expert // size == group] for group in range(gate.groups)]

    def score(group: int) -> float:
        return sum(sorted((rank[expert] for expert in by_group[group]), reverse=True)[:2])

    best = sorted((g for g in range(gate.groups) if by_group[g]), key=lambda g: -score(g))[: gate.top_groups]
    return [expert for group in best for expert in by_group[group]]


def bereft_row(
    gate: Gate, logits: list[float], correction: list[float], dead: Collection[int], policy: Fallback
) -> tuple[dict[int, float], bool]:
    """A token's experts and weights by its policy, and whether they are others than the gate chose."""
    whole = gate_row(gate, logits, correction, ())
    left = {expert: weight for expert, weight in whole.items() if expert not in dead}
    if len(left) == len(whole):
        return whole, False
    if policy is Fallback.NEXT_BEST:
        return gate_row(gate, logits, correction, dead), True
    scale = sum(whole.values()) / sum(left.values()) if left else 0.0
    return {expert: weight * scale for expert, weight in left.items()}, True


@dataclass
class Bereft:
    """`logits_TV` of given tokens; `degraded[n][t]`: whether position t lacked an expert in the MoE layer number n."""

    logits_TV: Tensor
    degraded: list[list[bool]] = field(default_factory=list)

    def marked(self, position: int, last_is_sparse: bool = True) -> bool:
        """Whether the token drawn at `position` is degraded: no later layer reads what the last one lacked before."""
        before = self.degraded[:-1] if last_is_sparse else self.degraded
        return any(any(layer[: position + 1]) for layer in before) or any(layer[position] for layer in self.degraded)


@torch.inference_mode()
def bereft(model: Any, gate: Gate, ids: list[int], dead_at: DeadAt, policy: Fallback) -> Bereft:
    """Run a sequence through transformers' model without the experts that are missing."""
    with replaced_gates(model, gate, dead_at, policy) as degraded:
        logits_TV = model(torch.tensor([ids])).logits[0]
    return Bereft(logits_TV, degraded)


@contextmanager
def replaced_gates(model: Any, gate: Gate, dead_at: DeadAt, policy: Fallback) -> Iterator[list[list[bool]]]:
    """Let the gates return what the policy chooses; collects which rows each changed."""
    degraded: list[list[bool]] = []

    def choose(module: Any, _: Any, output: Any) -> Any:
        logits_TE = output[0] if len(output) == 3 else output[1]
        bias = getattr(module, "e_score_correction_bias", torch.zeros(gate.experts)).tolist()
        rows = [bereft_row(gate, row, bias, dead_at(at), policy) for at, row in enumerate(logits_TE.double().tolist())]
        degraded.append([changed for _, changed in rows])
        weights_TE = torch.zeros(len(rows), gate.experts, dtype=logits_TE.dtype)
        for at, (weights, _) in enumerate(rows):
            for expert, weight in weights.items():
                weights_TE[at, expert] = weight
        if len(output) != 3:
            return weights_TE, logits_TE
        top = weights_TE.topk(gate.top_k, dim=1)
        return logits_TE, top.values, top.indices

    hooks = [m.register_forward_hook(choose) for m in model.modules() if type(m).__name__.endswith(GATES)]
    try:
        yield degraded
    finally:
        for hook in hooks:
            hook.remove()
