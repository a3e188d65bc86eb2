"""What transformers computes for a prompt: greedy tokens, logits, and the experts of each layer and position."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reference:
    """One prompt's answer: `logits_GV` drew the G tokens; `gates` has for each MoE layer logits over all positions."""

    prompt: list[int]
    tokens: list[int]
    logits_GV: Tensor
    gates: list[Tensor]

    def experts(self, layer: int, top_k: int) -> list[list[int]]:
        """The experts of each position in the MoE layer number `layer`, best first."""
        chosen: list[list[int]] = self.gates[layer].topk(top_k, dim=-1).indices.tolist()
        return chosen


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
        mask = torch.ones_like(ids)
        whole = model.generate(ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        logits, gates = forced(model, whole[:, :-1])
        for row in range(len(ids)):
            tokens = whole[row].tolist()
            of_row = [gate[row] for gate in gates]
            answers.append(Reference(tokens[:length], tokens[length:], logits[row, length - 1 :], of_row))
    return answers


@torch.inference_mode()
def forced(model: Any, ids_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits [B, T, V] and each MoE layer's gate logits [B, T, E] of given tokens."""
    output = model(ids_BT, output_router_logits=True)
    return output.logits, [gate.view(*ids_BT.shape, -1) for gate in output.router_logits]
