"""Half-precision products in their own dtype and widened to float32: GFLOP/s of both, and which one is chosen.

    python -m tests.benchmarks.bench_widening --dtype bfloat16 --threads 2
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m tests.benchmarks.bench_widening
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m tests.benchmarks.bench_widening --prompt 512

With `--prompt` a whole prompt of the Qwen3-like shape in one process, tokens/s. The variables hold a newer x86 to
what one without AVX-512 does. Both ways take turns within each round.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from cluster.table import table
from kernels.cpu import widening
from kernels.cpu.widening import WIDENING, Widening, direct_linear, wide_linear
from tests.benchmarks.harness.checkpoints import ensure
from tests.benchmarks.harness.sides import OneProcess

WAYS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (direct_linear, wide_linear)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def rates(rows: int, w_OI: Tensor, repeats: int) -> list[float]:
    """GFLOP/s of each way with a matrix [O, I]: medians."""
    x_MI = torch.randn(rows, w_OI.shape[1]).to(w_OI.dtype)
    seconds: list[list[float]] = [[] for _ in WAYS]
    for _ in range(repeats + 1):
        for way, times in zip(WAYS, seconds, strict=True):
            begun = time.perf_counter()
            way(x_MI, w_OI)
            times.append(time.perf_counter() - begun)
    return [2e-9 * rows * w_OI.numel() / statistics.median(times[1:]) for times in seconds]


def prompt_rates(tokens: int, scale: str, repeats: int) -> list[float]:
    """Tokens/s of a bfloat16 prompt by each way, in one process: medians."""
    engine = OneProcess(ensure("qwen3", scale), "bfloat16", kv_tokens=4 * tokens)
    ways = (Widening(measure=lambda _: math.inf), widening.WIDENING)
    seconds: list[list[float]] = [[] for _ in ways]
    for seed in range(repeats + 1):
        for way, times in zip(ways, seconds, strict=True):
            widening.WIDENING = way
            times.append(engine.prefill([(7 * place + seed) % 1000 for place in range(tokens)]))
    return [tokens / statistics.median(times[1:]) for times in seconds]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--outputs", type=int, default=768)
    parser.add_argument("--inputs", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=0, metavar="TOKENS", help="a whole prompt instead of one product")
    parser.add_argument("--scale", choices=["full", "small"], default="full", help="small is for smoke tests")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.prompt:
        own, widened = prompt_rates(args.prompt, args.scale, args.repeats)
        print(f"prompt of {args.prompt} tokens: {own:.1f} tokens/s in bfloat16, {widened:.1f} widened")
        return
    dtype = getattr(torch, args.dtype)
    w_OI, rows_from = torch.randn(args.outputs, args.inputs).to(dtype), WIDENING.rows_from(dtype)
    print(f"{args.dtype} [M, {args.inputs}] x [{args.inputs}, {args.outputs}], {args.threads} threads, "
          f"instructions {WIDENING.supported(dtype)}, widened from {rows_from} rows on")  # fmt: skip
    made = [(rows, rates(rows, w_OI, args.repeats)) for rows in ROWS]
    print(table(["rows M", "own dtype, GFLOP/s", "widened, GFLOP/s", "chosen"], [
        [str(rows), *(f"{rate:.1f}" for rate in both), "widened" if rows >= rows_from else "own dtype"]
        for rows, both in made
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
