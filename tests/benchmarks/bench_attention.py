"""Attention of single rows: the CPU path and the native one against one call for each row, as ratios of time (above 1
they are faster).

    python -m tests.benchmarks.bench_attention --threads 2
    python -m tests.benchmarks.bench_attention --overhead

Each call is for another layer's cache, so that keys come from DRAM as in service. With `--overhead` a step of 48 layers
with almost nothing to compute: what the engine's thread spends on the calls. All ways take turns within each round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cluster.table import table
from kernels.attention import cpu, reference
from kernels.attention.paged import LayerCache, PagedRows
from kernels.native import attention as native

CPU = torch.device("cpu")
WAYS = (reference.paged_attention, cpu.paged_attention, native.paged_attention)
ROWS = (1, 8, 64)
CONTEXTS = (100, 1000, 4000)
BLOCK = 16
LAYERS = 48


@dataclass(frozen=True)
class Form:
    """H heads, J key-value heads of C elements; the first `value` of them are values if latents are cached."""

    heads: int
    kv_heads: int
    size: int
    value: int | None = None
    sinks: bool = False

    def cache(self, slots: int) -> LayerCache:
        keys, values = (torch.randn(slots, self.kv_heads, self.size, dtype=torch.bfloat16) for _ in range(2))
        return LayerCache(keys, values if self.value is None else None, self.value or self.size)

    @property
    def token_bytes(self) -> int:
        return 2 * self.kv_heads * self.size * (1 if self.value else 2)


FORMS = {
    "Qwen3-like": Form(16, 4, 64),
    "gpt-oss": Form(64, 8, 64, sinks=True),
    "DeepSeek-like": Form(16, 1, 288, value=256),
}


def rows_of(contexts: Sequence[int], scattered: bool) -> tuple[PagedRows, int]:
    """Rows of such contexts in blocks, and how many slots those take."""
    blocks = [-(-context // BLOCK) for context in contexts]
    ids = np.arange(sum(blocks))
    tables = np.split(np.random.default_rng(0).permutation(ids) if scattered else ids, np.cumsum(blocks)[:-1])
    slots = [
        (own[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)[:context]
        for own, context in zip(tables, contexts, strict=True)
    ]
    return PagedRows(slots, CPU), len(ids) * BLOCK


def seconds(form: Form, contexts: Sequence[int], scattered: bool, layers: int, rounds: int) -> list[float]:
    """Seconds of each way for all layers: medians."""
    rows, slots = rows_of(contexts, scattered)
    caches = [form.cache(slots) for _ in range(layers)]
    q_BHC = torch.randn(len(contexts), form.heads, form.size, dtype=torch.bfloat16)
    sinks_H = torch.randn(form.heads, dtype=torch.bfloat16) if form.sinks else None
    taken: list[list[float]] = [[] for _ in WAYS]
    for _ in range(rounds + 1):
        for way, times in zip(WAYS, taken, strict=True):
            begun = time.perf_counter()
            attend_all(way, q_BHC, caches, rows, sinks_H)
            times.append(time.perf_counter() - begun)
    return [statistics.median(times[1:]) for times in taken]


def attend_all(
    way: object, q_BHC: Tensor, caches: Sequence[LayerCache], rows: PagedRows, sinks_H: Tensor | None
) -> None:
    """One step's attention."""
    for cache in caches:
        way(q_BHC, cache, rows, 0.1, sinks_H)  # type: ignore[operator]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=128, help="of all layers' caches together")
    parser.add_argument("--scattered", action="store_true", help="blocks in random order")
    parser.add_argument("--overhead", action="store_true", help="64 rows of 16 tokens, one head of 16 elements")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        if args.overhead:
            taken = seconds(Form(1, 1, 16), [16] * 64, args.scattered, LAYERS, args.rounds)
            loop, torchs, ours = (1e3 * each for each in taken)
            print(f"64 rows, {LAYERS} layers, ms: {loop:.1f} by row, {torchs:.1f} by the CPU path, {ours:.1f} natively")
            return
        lines = []
        for name, form in FORMS.items():
            for count in ROWS:
                cells = []
                for context in CONTEXTS:
                    bytes_of_layer = count * context * form.token_bytes
                    layers = max(1, (args.megabytes << 20) // bytes_of_layer)
                    loop, torchs, ours = seconds(form, [context] * count, args.scattered, layers, args.rounds)
                    cells.append(f"{loop / torchs:.2f} / {loop / ours:.2f}")
                lines.append([name, str(count), *cells])
        print(table(["form", "rows", *(f"context {context}" for context in CONTEXTS)], lines))


if __name__ == "__main__":
    main()
