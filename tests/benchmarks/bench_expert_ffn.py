"""One expert layer in several forms, side by side: median ms, the ratio to the selected backend, GB/s and TFLOP/s.

    python tests/benchmarks/bench_expert_ffn.py --shape qwen3 --dtype bfloat16 --threads 1
    python tests/benchmarks/bench_expert_ffn.py --shape qwen3 --packed --no-reference

Forms take turns within each round, so that a noisy neighbour hits all of them; the cache is swept before each call.
GB/s counts the weights of the experts that have rows, once, as dense ones, beside what a plain loop reads in the same
round (`read`); `--packed` adds experts kept in quantized formats, each with the bytes that it holds.
Legend: T tokens, K experts per token, E experts, N rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import select
from kernels.formats.block_fp8 import BlockFp8
from kernels.formats.int4_groups import Int4Groups
from kernels.formats.mxfp4 import Mxfp4
from kernels.formats.nvfp4 import Nvfp4
from kernels.formats.quantized import Quantized
from kernels.formats.scaled import Int8Channel
from kernels.ops import Ops
from kernels.weights import ExpertWeights

Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """A model's expert layer."""

    experts: int
    hidden: int
    ffn: int
    top_k: int


# Floats that are read before each call, so that no cache holds weights.
SWEPT = 16 << 20
# The name of the plain loop among the forms.
READ = "read"

SHAPES = {
    "mixtral": Shape(experts=8, hidden=1024, ffn=3584, top_k=2),
    "qwen3": Shape(experts=64, hidden=1024, ffn=384, top_k=8),
    "qwen3-shard": Shape(experts=32, hidden=1024, ffn=384, top_k=4),
    "qwen3-30b": Shape(experts=128, hidden=2048, ffn=768, top_k=8),
}


def loop_form(gate_up: Tensor, down: Tensor) -> Form:
    """What transformers' eager experts do: for each expert hit, gather its tokens, two products, add to the output."""

    def one(x: Tensor, expert: int) -> Tensor:
        gate, up = F.linear(x, gate_up[expert]).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, down[expert])

    def run(x: Tensor, token: Tensor, expert: Tensor, weight: Tensor) -> Tensor:
        y = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        for e in expert.unique().tolist():
            rows = torch.where(expert == e)[0]
            y.index_add_(0, token[rows], one(x[token[rows]], e).float() * weight[rows, None])
        return y

    return run


def grouped_form(gate_up: Tensor, down: Tensor) -> Form:
    """Sorting and torch's grouped product."""
    gate_up_t, down_t = gate_up.transpose(1, 2), down.transpose(1, 2)

    def run(x: Tensor, token: Tensor, expert: Tensor, weight: Tensor) -> Tensor:
        order = expert.argsort(stable=True)
        ends = torch.bincount(expert, minlength=len(gate_up)).cumsum(0).int()
        gate, up = torch._grouped_mm(x[token[order]], gate_up_t, offs=ends).chunk(2, dim=-1)
        y = torch._grouped_mm(F.silu(gate) * up, down_t, offs=ends).float() * weight[order, None]
        return torch.zeros(x.shape, dtype=torch.float32, device=x.device).index_add_(0, token[order], y)

    return run


def backend_form(ops: Ops, weights: ExpertWeights) -> Form:
    """One of ours."""
    return lambda x, token, expert, weight: ops.expert_ffn(x, weights, token, expert, weight)


def packed_fp8(w_OI: Tensor) -> Quantized:
    """The matrix rounded to FP8, all blocks of one scale: which one does not matter for the time."""
    packed = BlockFp8.empty((w_OI.shape[0], w_OI.shape[1]), w_OI.dtype, w_OI.device)
    packed.values_OI.copy_(w_OI * 64)
    packed.scales_BC.fill_(1 / 64)
    return packed


def packed_mxfp4(w_OI: Tensor) -> Quantized:
    """A matrix of that shape with any values of about that size."""
    packed = Mxfp4.empty((w_OI.shape[0], w_OI.shape[1]), w_OI.dtype, w_OI.device)
    packed.blocks_OGH.random_(256)
    packed.scales_OG.fill_(120)
    return packed


def packed_nvfp4(w_OI: Tensor) -> Quantized:
    """A matrix of that shape with any values of about that size."""
    packed = Nvfp4.empty((w_OI.shape[0], w_OI.shape[1]), w_OI.dtype, w_OI.device)
    packed.packed_OH.random_(256)
    packed.scales_OG.fill_(1)
    packed.scale_1.fill_(0.01)
    return packed


def packed_int8(w_OI: Tensor) -> Quantized:
    """The matrix rounded to INT8 with a scale for each output."""
    packed = Int8Channel.empty((w_OI.shape[0], w_OI.shape[1]), w_OI.dtype, w_OI.device)
    packed.values_OI.copy_((w_OI * 512).round().clamp_(-128, 127))
    packed.scales_R1.fill_(1 / 512)
    return packed


def packed_int4(w_OI: Tensor) -> Quantized:
    """A matrix of that shape with any values of about that size, in groups of 32."""
    packed = Int4Groups.empty((w_OI.shape[0], w_OI.shape[1]), w_OI.dtype, w_OI.device, group=32)
    packed.codes_OP.random_(256)
    packed.scales_OG.fill_(0.01)
    return packed


PACKED: dict[str, Callable[[Tensor], Quantized]] = {
    "fp8": packed_fp8,
    "int8": packed_int8,
    "mxfp4": packed_mxfp4,
    "nvfp4": packed_nvfp4,
    "int4": packed_int4,
}


def make_packed_forms(gate_up: Tensor, down: Tensor, device: str) -> dict[str, Form]:
    """The selected backend over quantized weights; names say how many bytes a weight takes."""
    ops = select.ops("auto", device)
    forms = {}
    for name, pack in PACKED.items():
        matrices = tuple(pack(w) for w in gate_up), tuple(pack(w) for w in down)
        weights = ops.prepare_weights(*matrices)
        size = sum(w.nbytes for w in (*weights.gate_up, *weights.down)) / (gate_up.numel() + down.numel())
        forms[f"{name} [{size:.2f} B]"] = backend_form(ops, weights)
    return forms


def make_forms(shape: Shape, dtype: torch.dtype, device: str, packed: bool) -> dict[str, Form]:
    """Every form over the same weights; the selected backend is the first."""
    gate_up = torch.randn(shape.experts, 2 * shape.ffn, shape.hidden, device=device).mul_(0.03).to(dtype)
    down = torch.randn(shape.experts, shape.hidden, shape.ffn, device=device).mul_(0.03).to(dtype)
    forms = {}
    for backend in ("auto", "reference"):
        ops = select.ops(backend, device)
        forms[ops.backend.value] = backend_form(ops, ops.prepare_weights(gate_up, down))
    forms["loop"] = loop_form(gate_up, down)
    if hasattr(torch, "_grouped_mm"):
        forms["grouped_mm"] = grouped_form(gate_up, down)
    return forms | make_packed_forms(gate_up, down, device) if packed else forms


def make_rows(shape: Shape, tokens: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random tokens and an even routing, rows by token."""
    weight_TK, ids_TK = torch.rand(tokens, shape.experts, device=device).topk(shape.top_k)
    token_N = torch.arange(tokens, device=device).repeat_interleave(shape.top_k)
    x_TD = torch.randn(tokens, shape.hidden, device=device).to(dtype)
    return x_TD, token_N, ids_TK.flatten(), weight_TK.flatten()


def time_once(form: Form, rows: tuple[Tensor, Tensor, Tensor, Tensor], sweep: Tensor) -> float:
    """Seconds of one call, the caches cold and the device idle before and after."""
    sweep.add_(1)
    if sweep.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    form(*rows)
    if sweep.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(forms: dict[str, Form], rows: tuple[Tensor, Tensor, Tensor, Tensor], repeats: int) -> dict[str, float]:
    """Median seconds of each form; two calls first, as new row counts compile."""
    sweep = torch.zeros(SWEPT, device=rows[0].device)
    forms = forms | {READ: lambda *_: sweep.sum()}
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(-2, repeats):
        for name, form in forms.items():
            seconds = time_once(form, rows, sweep)
            if repeat >= 0:
                taken[name].append(seconds)
    return {name: statistics.median(times) for name, times in taken.items()}


def report(shape: Shape, rows: tuple[Tensor, Tensor, Tensor, Tensor], medians: dict[str, float]) -> str:
    """One line: tokens, each form's ms and ratio to the first, and what the first reaches."""
    x_TD, _, expert_N, _ = rows
    ours = next(iter(medians.values()))
    per_expert = 3 * shape.hidden * shape.ffn
    gigabytes = len(expert_N.unique()) * per_expert * x_TD.element_size() / 1e9
    read = medians.pop(READ)
    cells = [f"{name} {seconds * 1e3:8.2f} ms ({seconds / ours:5.2f}x)" for name, seconds in medians.items()]
    limit = SWEPT * 4 / read / 1e9
    reach = (
        f"{gigabytes / ours:6.1f} GB/s of {limit:.1f} read, {2 * len(expert_N) * per_expert / ours / 1e12:7.3f} TFLOP/s"
    )
    return f"T={len(x_TD):4d} | " + " | ".join([*cells, reach])


def main() -> None:
    """Parse arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 32, 128, 512])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--no-reference", action="store_true", help="leave out the slow reference")
    parser.add_argument("--packed", action="store_true", help="add experts kept in quantized formats")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shape, dtype = SHAPES[args.shape], getattr(torch, args.dtype)
    print(f"{args.shape} {shape} {args.dtype} on {args.device}, {args.threads} threads, torch {torch.__version__}")
    with torch.inference_mode():
        forms = make_forms(shape, dtype, args.device, args.packed)
        if args.no_reference:
            del forms["reference"]
        for tokens in args.tokens:
            rows = make_rows(shape, tokens, dtype, args.device)
            print(report(shape, rows, measure(forms, rows, args.repeats)), flush=True)


if __name__ == "__main__":
    main()
