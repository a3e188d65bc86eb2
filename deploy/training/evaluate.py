"""Held-out figures of one model: its loss, and how evenly its experts are used."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from model import MoeModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

TOKENS_PER_EXPERT = 32  # the least mean load at which an expert without a token counts as dead
BATCH = 4


@dataclass(frozen=True)
class Balance:
    """`loads` is one row per layer: the tokens that each expert got."""

    dead_experts: int
    starved_experts: int  # under a tenth of their layer's mean load, the dead among them
    experts_in_all: int
    max_violation: float
    tokens_per_expert: float
    loads: list[list[int]]


@dataclass(frozen=True)
class HeldOut:
    nats_per_token: float
    bits_per_byte: float
    tokens: int
    balance: Balance

    def as_report(self) -> dict[str, object]:
        return asdict(self)


@torch.inference_mode()
def evaluate(model: MoeModel, stream: NDArray[np.int64], text_bytes: int) -> HeldOut:
    """Over consecutive windows of the full context; every token but the stream's first is predicted once."""
    total, load_LE = 0.0, torch.zeros(len(model.layers), model.config.num_experts, dtype=torch.long)
    for inputs, targets in held_out_windows(stream, model.config.max_position_embeddings):
        logits, routings = model(inputs)
        total += functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        load_LE += torch.stack([routing.loads for routing in routings])
    tokens = len(stream) - 1
    bits_per_byte = total / np.log(2) / text_bytes
    return HeldOut(total / tokens, float(bits_per_byte), tokens, balance_of(load_LE))


def held_out_windows(stream: NDArray[np.int64], window: int) -> list[tuple[Tensor, Tensor]]:
    """Pairs of inputs and next tokens: batches of full windows, then the shorter rest."""
    ids = torch.from_numpy(stream)
    full = (len(ids) - 1) // window * window
    pairs = [(ids[:full].view(-1, window), ids[1 : full + 1].view(-1, window))] if full else []
    batches = [batch for x, y in pairs for batch in zip(x.split(BATCH), y.split(BATCH), strict=True)]
    rest = (ids[full:-1].unsqueeze(0), ids[full + 1 :].unsqueeze(0))
    return [*batches, rest] if rest[0].numel() else batches


def balance_of(load_LE: Tensor) -> Balance:
    mean_L1 = load_LE.double().mean(dim=1, keepdim=True)
    if mean_L1.min() < TOKENS_PER_EXPERT:
        raise ValueError(f"{mean_L1.min():.1f} tokens per expert are too few to call one dead: {TOKENS_PER_EXPERT}")
    violation_L = (load_LE.amax(dim=1) - mean_L1[:, 0]) / mean_L1[:, 0]
    return Balance(
        dead_experts=int((load_LE == 0).sum()),
        starved_experts=int((load_LE < 0.1 * mean_L1).sum()),
        experts_in_all=load_LE.numel(),
        max_violation=float(violation_L.mean()),
        tokens_per_expert=float(mean_L1.mean()),
        loads=load_LE.tolist(),
    )
