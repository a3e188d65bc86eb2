"""Rows `prefill`, `decode` and `distribution`: tokens a second through the cluster, beside everyone else in turn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from tests.benchmarks.bench_serving import Cell, Seconds, call_cluster, measure, sides_of
from tests.benchmarks.native.figure import Figure, absent, ratio
from tests.benchmarks.native.floors import Work, decode_work, distinct_experts, prefill_work
from tests.benchmarks.native.plan import BATCHES, PREFILL, PROMPT, STEPS, Plan
from tests.benchmarks.native.served import Served

OURS, ALONE, LLAMA = "cluster", "one process", "llama.cpp bf16"
ROUTED_STEPS = 4
CPU_INFO = Path("/proc/cpuinfo")
# AVX2 alone has no bfloat16 at all, and there transformers' prefill is several times slower.
PREFILL_TARGET, PREFILL_TARGET_AVX2 = 2.5, 10.0


@dataclass(frozen=True)
class Aims:
    """Targets of a cell: most times the floor, least times transformers' best, least times llama.cpp's."""

    floor: float
    transformers: float
    llama: float | None = None


def decode(plan: Plan) -> list[Figure]:
    """Tokens a second of 1, 8 and 32 streams that decode."""
    aims = {1: Aims(1.5, 1.0, 1.0), 8: Aims(2.0, 2.0), 32: Aims(2.0, 2.0)}
    figures = []
    for batch in BATCHES:
        cell = Cell(batch, plan.config["vocab_size"])
        work = decode_work(plan.sizes, batch, PROMPT + STEPS / 2, touched(cell, plan.cluster()))
        figures += _cell("decode", plan, cell, work, aims[batch])
    return figures


def prefill(plan: Plan) -> list[Figure]:
    """Tokens a second of one prompt of 512 tokens, up to its first token."""
    cell = Cell(0, plan.config["vocab_size"], PREFILL)
    return _cell("prefill", plan, cell, prefill_work(plan.sizes, PREFILL), Aims(2.0, prefill_target()))


def distribution(plan: Plan) -> list[Figure]:
    """What two shards cost against one process with the same threads: decode at batch 8 and 32."""
    figures = []
    for batch in BATCHES[1:]:
        cell = Cell(batch, plan.config["vocab_size"])
        rates = measure(cell, _sides(plan, cell, OURS, ALONE), plan.rounds)
        what = f"{plan.shape}, batch {batch}: one process / {plan.shards} shards through the cluster"
        figures.append(ratio("distribution", what, rates[ALONE], rates[OURS], 1.1))
    return figures


def touched(cell: Cell, served: Served) -> float:
    """How many experts of a layer the cell's streams touch in a step, by the real routing of a short run."""
    steps = served.routing(cell.prompts(-4), ROUTED_STEPS)
    return sum(map(distinct_experts, steps)) / len(steps)


def prefill_target() -> float:
    """What prefill should reach against transformers on this CPU."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines()
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return PREFILL_TARGET_AVX2 if "avx2" in flags and "avx512f" not in flags else PREFILL_TARGET


def _sides(plan: Plan, cell: Cell, *names: str) -> dict[str, Seconds]:
    """Who takes part; with `names` only those."""
    if names:
        sides = sides_of(cell, plan.cluster(), plan.one_process(), None)
        return {name: sides[name] for name in names}
    sides = sides_of(cell, plan.cluster(), plan.one_process(), plan.transformers())
    if plan.llama is not None:
        sides[LLAMA] = llama_side(plan, cell, "bf16")
    return sides


def llama_side(plan: Plan, cell: Cell, kind: str) -> Seconds:
    """llama.cpp on the same weights, as bf16 or q4_0; it draws prompts of its own, of the same lengths."""
    llama = plan.llama
    assert llama is not None
    file = llama.converted(plan.directory, kind)

    def seconds(_: int, steps: int) -> float:
        if not cell.batch:
            return cell.length / llama.prefill_rate(file, cell.length)
        return cell.batch * steps / llama.decode_rate(file, cell.batch, cell.length, steps)

    return seconds


def _cell(row: str, plan: Plan, cell: Cell, work: Work, aims: Aims) -> list[Figure]:
    rates = measure(cell, _sides(plan, cell), plan.rounds)
    name, floor = f"{plan.shape}, {cell.name}", cell.rate(work.seconds(plan.limits), 1)
    figures = [Figure(row, f"{name}: {side}", "tokens/s", tuple(r), floor=floor) for side, r in rates.items()]
    figures.append(ratio(row, f"{name}: time / floor", [floor] * plan.rounds, rates[OURS], aims.floor))
    figures.append(_against_transformers(row, name, rates, aims.transformers))
    if aims.llama is not None:
        figures.append(against(row, name, rates, LLAMA, aims.llama, "no --llama-bench was given"))
    return figures


def _against_transformers(row: str, name: str, rates: Mapping[str, Sequence[float]], target: float) -> Figure:
    theirs = {side: median(values) for side, values in rates.items() if side.startswith("transformers")}
    best = max(theirs, key=lambda side: theirs[side], default="transformers")
    figure = against(row, name, rates, best, target, "transformers took no part")
    return replace(figure, what=f"{name}: cluster / transformers' best", note=figure.note or best)


def against(
    row: str, name: str, rates: Mapping[str, Sequence[float]], other: str, target: float, why: str, ours: str = OURS
) -> Figure:
    """Our tokens a second over another side's, if it took part."""
    what = f"{name}: {ours} / {other}"
    if other not in rates:
        return absent(row, what, why, target, at_least=True)
    return ratio(row, what, rates[ours], rates[other], target, at_least=True)


def served_side(cell: Cell, served: Served) -> Seconds:
    """Any cluster as a side of `measure`."""
    call: Callable[..., float] = call_cluster(served)
    return lambda seed, steps: cell.run(call, (), seed, steps)
