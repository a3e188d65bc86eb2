"""Paged decode attention over contexts of published models, timed: the share of copy bandwidth that it reaches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from kernels.attention.paged import LayerCache, PagedRows
from kernels.ops import Ops
from tests.benchmarks.gpu_check.limits import Limits, Timer
from tests.benchmarks.gpu_check.other_checks import ATTENTION_FORMS
from tests.benchmarks.gpu_check.part import Setting

BLOCK = 16
# (rows, context of each)
LOADS = ((1, 8000), (32, 1000), (128, 4000))


def time_contexts(ops: Ops, setting: Setting, timer: Timer, limits: Limits) -> Iterator[dict[str, Any]]:
    """A row for each form of heads and each load."""
    forms = {"small": (4, 2, 16, 16, False)} if setting.small else ATTENTION_FORMS
    for name, (heads, kv_heads, key, value, latent) in forms.items():
        for count, context in ((2, 20),) if setting.small else LOADS:
            rows, slots = scattered(count, context, setting.device)
            keys, values = (_random(slots, kv_heads, size, setting.device) for size in (key, value))
            cache = LayerCache(keys, None if latent else values, value)
            q_BHC = torch.randn(count, heads, key, device=setting.device).bfloat16()
            seconds = timer.medians({"paged_attention": partial(ops.paged_attention, q_BHC, cache, rows, 0.1)})
            reach = count * context * cache.token_bytes / seconds["paged_attention"] / limits.copied
            yield {
                "heads": name, "rows": count, "context": context, "seconds": seconds["paged_attention"],
                "share_of_copy": reach,
            }  # fmt: skip


def scattered(count: int, context: int, device: torch.device) -> tuple[PagedRows, int]:
    """Rows whose blocks lie in any order, and how many slots those take."""
    blocks = -(-context // BLOCK)
    ids = np.random.default_rng(0).permutation(count * blocks).reshape(count, blocks)
    slots = (ids[:, :, None] * BLOCK + np.arange(BLOCK)).reshape(count, -1)[:, :context]
    return PagedRows(list(slots), device), count * blocks * BLOCK


def _random(slots: int, heads: int, size: int, device: torch.device) -> torch.Tensor:
    return torch.randn(slots, heads, size, device=device, dtype=torch.bfloat16)
