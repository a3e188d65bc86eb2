"""Fits one model to a token stream: the schedule, the batches and the steps."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from model import ModelConfig, MoeModel
from muon import Muon
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Schedule:
    """The windows grow while the tokens of a step stay: most steps are cheap, the last ones see the full context."""

    steps: int = 3200
    tokens_per_step: int = 2048
    peak_rate: float = 6e-3
    warmup_steps: int = 100
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    windows: tuple[tuple[float, int], ...] = ((0.6, 256), (0.9, 512), (1.0, 1024))  # (until this share, tokens)
    seed: int = 20

    def window_at(self, step: int) -> int:
        return next(window for until, window in self.windows if step < until * self.steps)

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero at the last step."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.peak_rate * warm * min(1.0, (self.steps - step) / (self.steps - self.warmup_steps))


def shuffled_windows(stream: NDArray[np.int64], window: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Endless batches (B, window + 1) of whole epochs; every epoch cuts the stream at another offset."""
    rng = np.random.default_rng((seed, window))
    while True:
        usable = stream[rng.integers(window) :]
        count = (len(usable) - 1) // window
        starts = rng.permutation(count) * window
        for first in range(0, count - batch + 1, batch):
            rows = [usable[start : start + window + 1] for start in starts[first : first + batch]]
            yield torch.from_numpy(np.stack(rows))


def optimizers_for(model: MoeModel, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the layers, AdamW for the embeddings, the gates and the norms."""
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if name.endswith("proj.weight") or name.endswith("_proj")]
    plain = [p for p in named.values() if not any(p is matrix for matrix in matrices)]
    return [
        Muon(matrices, lr=schedule.peak_rate, weight_decay=schedule.weight_decay),
        torch.optim.AdamW(plain, lr=schedule.peak_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def step_loss(model: MoeModel, batch_BS: Tensor, balance_weight: float) -> tuple[Tensor, Tensor]:
    """The loss to minimise and, for the log, the cross entropy alone."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BSV, routings = model(batch_BS[:, :-1])
    entropy = functional.cross_entropy(logits_BSV.flatten(0, 1).float(), batch_BS[:, 1:].flatten())
    balance = sum((routing.balance_loss for routing in routings), torch.zeros(())) / len(routings)
    return entropy + balance_weight * balance, entropy.detach()


def fit(
    config: ModelConfig, stream: NDArray[np.int64], schedule: Schedule, balance_weight: float, label: str
) -> MoeModel:
    torch.manual_seed(schedule.seed)
    model = MoeModel(config)
    optimizers = optimizers_for(model, schedule)
    sources = {
        window: shuffled_windows(stream, window, max(1, schedule.tokens_per_step // window), schedule.seed)
        for _, window in schedule.windows
    }
    began, smooth = time.monotonic(), math.log(config.vocab_size)
    for step in range(schedule.steps):
        batch_BS = next(sources[schedule.window_at(step)])
        loss, entropy = step_loss(model, batch_BS, balance_weight)
        loss.backward()
        apply_step(model, optimizers, schedule, step)
        smooth += 0.05 * (entropy.item() - smooth)
        if step % 50 == 49 or step == schedule.steps - 1:
            print(f"[{label}] step {step + 1} loss {smooth:.3f} at {time.monotonic() - began:.0f} s", flush=True)
    return model.eval()


def apply_step(model: nn.Module, optimizers: list[torch.optim.Optimizer], schedule: Schedule, step: int) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(step)
        optimizer.step()
        optimizer.zero_grad()
