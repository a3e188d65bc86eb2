"""What transformers computes for a prompt: greedy tokens, logits, and the experts of each layer and position."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

F32_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Chosen:
    """What one layer's gate of transformers chose: `expert_ids` and `weights`, each [..., T, K]."""

    expert_ids: Tensor
    weights: Tensor

    def row(self, number: int) -> "Chosen":
        """Of one sequence."""
        return Chosen(self.expert_ids[number], self.weights[number])


@dataclass(frozen=True)
class Reference:
    """One prompt's answer: `logits_GV` drew the G tokens; `chosen` has each MoE layer's experts of all positions."""

    prompt: list[int]
    tokens: list[int]
    logits_GV: Tensor
    chosen: list[Chosen]

    def experts(self, layer: int) -> list[list[int]]:
        """The experts of each position in the MoE layer number `layer`, in transformers' order."""
        ids: list[list[int]] = self.chosen[layer].expert_ids.tolist()
        return ids


def prompts(count: int = 16, vocabulary: int = 131, seed: int = 0) -> list[list[int]]:
    """Random prompts of five lengths."""
    random = torch.Generator().manual_seed(seed)
    lengths = (1, 5, 16, 21, 33)
    return [
        torch.randint(0, vocabulary, (lengths[i * len(lengths) // count],), generator=random).tolist()
        for i in range(count)
    ]


@torch.inference_mode()
def greedy(model: Any, prompts: Sequence[list[int]], count: int) -> list[Reference]:
    """Generate `count` tokens behind each prompt; prompts of one length together."""
    answers = []
    for length, group in groupby(prompts, key=len):
        ids = torch.tensor(list(group))
        options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        logits, chosen = forced(model, whole[:, :-1])
        for row in range(len(ids)):
            tokens = whole[row].tolist()
            of_row = [layer.row(row) for layer in chosen]
            answers.append(Reference(tokens[:length], tokens[length:], logits[row, length - 1 :], of_row))
    return answers


@torch.inference_mode()
def forced(model: Any, ids_BT: Tensor) -> tuple[Tensor, list[Chosen]]:
    """Logits [B, T, V] of given tokens, and what each MoE layer's gate chose for them."""
    with watched_gates(model) as seen:
        logits = model(ids_BT).logits
    return logits, [Chosen(*(t.view(*ids_BT.shape, -1) for t in (ids, weights))) for ids, weights in seen]


@contextmanager
def watched_gates(model: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect the experts and weights that the model's gates return, a pair [T, K] a layer, as they are called."""
    seen: list[tuple[Tensor, Tensor]] = []

    def look(gate: Any, _: Any, output: Any) -> None:
        if len(output) == 3:
            seen.append((output[2], output[1]))
        else:  # Llama 4's returns a score for every expert, zero for those that were not chosen, and the logits
            ids = output[1].topk(gate.top_k, dim=1).indices
            seen.append((ids, output[0].gather(1, ids)))

    names = ("TopKRouter", "TopkRouter", "Llama4Router")
    hooks = [m.register_forward_hook(look) for m in model.modules() if type(m).__name__.endswith(names)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def check_logits(ours_GV: Tensor, theirs_GV: Tensor, tolerance: float = F32_TOLERANCE) -> None:
    error = (ours_GV - theirs_GV).abs().max() / theirs_GV.abs().max()
    assert error < tolerance, f"relative error {error:.2e}"
