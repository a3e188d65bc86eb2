"""The third part: the bundled checkpoint served by the engine in this process, on the device and on the CPU."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from typing import Literal

import torch

from experts.checkpoint.directory import Checkpoint
from experts.config import ExpertsConfig
from router_service.config import EngineConfig
from router_service.engine.builder import build_engine, local_shards
from router_service.models.families.registry import plan_model
from tests.benchmarks.gpu_check.part import Budget, Finding, Setting
from tests.benchmarks.harness.requests import submit

CHECKPOINT = Path(__file__).parents[3] / "cluster" / "bundled"
CPU = torch.device("cpu")
LENGTHS = (5, 37, 130, 300)
NEW_TOKENS = 48
SPEED_ROWS = (1, 32)


def run(setting: Setting, budget: Budget) -> Finding:
    """Greedy tokens in float32, equal to the reference's on the CPU; then tokens a second in bfloat16."""
    found = Finding()
    lengths, new = ((3, 5), 2) if setting.small else (LENGTHS, NEW_TOKENS)
    prompts = [[(17 * place + 31 * length) % 3000 + 1 for place in range(length)] for length in lengths]
    ours = Served("triton", setting.device, torch.float32).answers(prompts, new)
    plain = Served("reference", CPU, torch.float32).answers(prompts, new)
    equal = sum(a == b for one, other in zip(ours, plain, strict=True) for a, b in zip(one, other, strict=True))
    found.lines.append(f"float32: {equal} of {len(prompts) * new} greedy tokens equal to the CPU reference's")
    if equal < len(prompts) * new:
        found.faults.append(f"tokens differ from the CPU reference's: {ours} instead of {plain}")
    if not setting.small:
        _speeds(Served("triton", setting.device, torch.bfloat16), prompts[0], budget, found)
    return found


def _speeds(served: Served, prompt: list[int], budget: Budget, found: Finding) -> None:
    """Tokens a second of so many equal streams, their short prompts included; the first round compiles."""
    for rows in SPEED_ROWS:
        for _ in range(2):
            if budget.spent():
                found.lines.append(f"{rows} streams: left out, out of time")
                return
            begun = time.perf_counter()
            served.answers([prompt] * rows, NEW_TOKENS)
            rate = rows * NEW_TOKENS / (time.perf_counter() - begun)
        found.lines.append(f"bfloat16, {rows} streams: {rate:.0f} tokens/s (the bundled model: launches, not bytes)")
        found.rows.append({"streams": rows, "tokens_per_second": rate})


class Served:
    """The engine over one local shard: no Ray, no sockets."""

    def __init__(self, backend: Literal["triton", "reference"], device: torch.device, dtype: torch.dtype) -> None:
        experts = ExpertsConfig(shards=1, backend=backend)
        plan, form = plan_model(Checkpoint(CHECKPOINT)), {"dtype": dtype, "device": device}
        config = EngineConfig(kv_cache_tokens=32768, threads=1, overlap="off")
        self._engine = build_engine(plan, local_shards(plan, experts, **form), experts, config, **form)
        self._keys = count()

    def answers(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        """Greedy tokens after each prompt, `new` of them.

        Raises:
            RuntimeError: a request failed.
        """
        made: dict[int, list[int]] = {}
        for key, prompt in zip(self._keys, prompts, strict=False):
            submit(self._engine, key, prompt, new)
            made[key] = []
        while not self._engine.idle():
            for event in self._engine.step():
                if event.failure:
                    raise RuntimeError(event.failure.message)
                made[event.key].append(event.token)
        return list(made.values())
