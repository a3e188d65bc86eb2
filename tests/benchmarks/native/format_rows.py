"""Rows `int4` and `packed`: decoding from fewer bytes, through the cluster."""

import json
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path

from experts.config import WeightsConfig
from tests.benchmarks.bench_serving import Cell, measure
from tests.benchmarks.harness.checkpoints import ensure
from tests.benchmarks.native.figure import Figure, absent, ratio
from tests.benchmarks.native.floors import Sizes, decode_work, sizes_of
from tests.benchmarks.native.plan import PROMPT, STEPS, Plan
from tests.benchmarks.native.serving_rows import against, llama_side, served_side, touched

INT4 = "int4"
# A half byte a weight, and a bfloat16 scale for each group of 32: what `weights.quantize: int4` reads at most.
INT4_BYTES = 0.5 + 2 / 32
PACKED = {"qwen3-fp8": ("FP8", 1.3), "gpt-oss": ("MXFP4", 1.8)}
LLAMA_Q4 = "llama.cpp Q4_0"


def int4(plan: Plan) -> list[Figure]:
    """Decoding one stream with experts quantized at load, beside our bf16 and llama.cpp's Q4_0 (all matrices)."""
    cell, name = Cell(1, plan.config["vocab_size"]), f"{plan.shape}, batch 1"
    if "quantize" not in {field.name for field in fields(WeightsConfig)}:
        why = "this tree has no weights.quantize"
        aims = {f"{name}: int4 / cluster": 2.5, f"{name}: int4 / {LLAMA_Q4}": 1.0}
        return [absent("int4", what, why, target, at_least=True) for what, target in aims.items()]
    work = decode_work(quantized(plan.sizes), 1, PROMPT + STEPS / 2)
    with plan.served(plan.directory, quantize=INT4) as ours:
        sides = {INT4: served_side(cell, ours), "cluster": served_side(cell, plan.cluster())}
        if plan.llama is not None:
            sides[LLAMA_Q4] = llama_side(plan, cell, "q4_0")
        rates = measure(cell, sides, plan.rounds)
    floor = cell.rate(work.seconds(plan.limits), 1)
    figures = [Figure("int4", f"{name}: {side}", "tokens/s", tuple(r)) for side, r in rates.items()]
    figures[0] = replace(figures[0], floor=floor)
    figures.append(against("int4", name, rates, "cluster", 2.5, "", ours=INT4))
    figures.append(against("int4", name, rates, LLAMA_Q4, 1.0, "no --llama-bench was given", ours=INT4))
    return figures


def quantized(sizes: Sizes) -> Sizes:
    """The sizes with experts in int4."""
    return replace(sizes, expert_bytes=sizes.expert_weights * INT4_BYTES)


def packed(plan: Plan) -> list[Figure]:
    """FP8 and MXFP4 experts computed from their bytes, against the same dequantized at load: batch 1 and 8.

    Its checkpoints are its own, whatever the run's shape.
    """
    plan.close()
    return [figure for shape in PACKED for figure in _packed(plan, shape)]


def _packed(plan: Plan, shape: str) -> list[Figure]:
    directory, (kind, target) = ensure(shape, plan.scale), PACKED[shape]
    figures = []
    with ExitStack() as stack:
        served = {
            resident: stack.enter_context(plan.served(directory, resident=resident))
            for resident in ("packed", "dequantized")
        }
        for batch in (1, 8):
            cell = Cell(batch, _vocabulary(directory))
            rates = measure(cell, {name: served_side(cell, side) for name, side in served.items()}, plan.rounds)
            hit = touched(cell, served["dequantized"])
            for name, values in rates.items():
                work = decode_work(sizes_of(directory, name == "packed"), batch, PROMPT + STEPS / 2, hit)
                floor = cell.rate(work.seconds(plan.limits), 1)
                what = f"{kind}, batch {batch}: {name}"
                figures.append(Figure("packed", what, "tokens/s", tuple(values), floor=floor))
            what = f"{kind}, batch {batch}: packed / dequantized"
            figures.append(ratio("packed", what, rates["packed"], rates["dequantized"], target, at_least=True))
    return figures


def _vocabulary(directory: Path) -> int:
    return int(json.loads((directory / "config.json").read_text())["vocab_size"])
