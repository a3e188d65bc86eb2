"""Half-precision products in their own dtype and widened to float32: GFLOP/s of both, and which one is chosen.

    python -m tests.benchmarks.bench_widening --dtype bfloat16 --threads 2
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python -m tests.benchmarks.bench_widening

The second line holds a newer x86 to what one without AVX-512 does. Both ways take turns within each round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from cluster.table import table
from kernels.cpu.widening import WIDENING, direct_linear, wide_linear

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--outputs", type=int, default=768)
    parser.add_argument("--inputs", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
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
