"""What measuring costs: a step's observation, decoding with and without it, and the metrics page.

    python -m tests.benchmarks.bench_metrics [CHECKPOINT ...]

Decodes each checkpoint (the bundled model unless told otherwise) in one process, measuring and not measuring in turns,
and takes the same steps' records for the time of one observation. Then steps of DeepSeek-V3's shape, which are made up:
58 layers, 256 experts, top-8, 64 shards; what such a step takes at the very least is measured as its exchange with
shards in this process that answer at once: no socket, no attention, no expert. Last the page for that shape: what a
report costs the router, and a scrape the Front.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from cluster.config import BUNDLED
from cluster.table import duration, table
from experts.placement import even_placement
from experts.pool import ExpertPool
from experts.routing import Routing
from experts.shard.local import LocalTransport
from experts.transport.call import ExpertCall
from router_service.config import MetricsConfig
from router_service.engine.step.forward import StepTrace
from router_service.engine.step.step_record import StepRecord
from router_service.metrics.collector import PENDING_STEPS, Statistics
from router_service.metrics.router_series import router_series
from router_service.protocol.messages import encode
from tests.benchmarks.harness.report import machine
from tests.benchmarks.harness.sides import OneProcess
from tests.support.scrape import GAUGES, LABELS, text_of

LAYERS, EXPERTS, CHOSEN, SHARDS, HIDDEN = 58, 256, 8, 64, 7168
REPEATS = 9
TURN_STEPS = PENDING_STEPS  # so that each turn adds its steps up once
PROMPT_TOKENS = 16


@dataclass(frozen=True)
class Cost:
    """Seconds of a step and of its observation; where tokens were decoded, tokens/s without measuring, and by what
    factor measuring changes it.
    """

    name: str
    step_seconds: float
    observe_seconds: float
    rate: float | None = None
    ratio: float | None = None


class Zeros:
    """A shard that answers at once: what is left of an exchange is grouping, adding and the loop itself."""

    def compute(self, call: ExpertCall) -> torch.Tensor:
        """Zeros."""
        return torch.zeros(call.reply_rows, HIDDEN)


def at_once(shards: int) -> LocalTransport:
    """A transport to such shards."""
    return LocalTransport(dict.fromkeys(range(shards), Zeros()))  # type: ignore[arg-type]


def observe_seconds(statistics: Statistics, records: Sequence[StepRecord]) -> float:
    """Seconds of one observation, all that is put off included; the best of several rounds."""
    rounds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        for record in records:
            statistics.observe(record)
        statistics.flush()
        rounds.append((time.perf_counter() - begun) / len(records))
    return min(rounds)


def decoded(directory: Path, batch: int, turns: int) -> Cost:
    """Decode in turns with and without measuring; a turn is compared with its neighbour, as the machine drifts."""
    side, records = OneProcess(directory, "auto" if directory != BUNDLED else "bfloat16", 1 << 14), list[StepRecord]()
    statistics = Statistics(lambda: side.engine.pool.placement, side.engine.backbone.spec.layers)
    prompts = [[(7 * n + i) % 256 for i in range(PROMPT_TOKENS)] for n in range(batch)]
    side.engine.observe = records.append
    side.decode(prompts, TURN_STEPS)  # warms up, and gives the records
    pairs = [pair for _ in range(REPEATS) for pair in turns_of(side, prompts, turns, statistics)]
    step = median(without for without, _ in pairs)
    ratio = median(without / measuring for without, measuring in pairs)
    observed = observe_seconds(statistics, [record for record in records if record.kind == "decode"])
    return Cost(f"{directory.name}, batch {batch}", step, observed, batch / step, ratio)


def turns_of(
    side: OneProcess, prompts: list[list[int]], turns: int, statistics: Statistics
) -> Iterator[tuple[float, float]]:
    """Seconds a step without and with measuring, turn by turn in one decoding of `prompts`."""
    ways: list[Callable[[StepRecord], None]] = [lambda _: None, statistics.observe]
    side.start(prompts, 2 * turns * TURN_STEPS)
    for number in range(turns):
        seconds = [0.0, 0.0]
        for way in (0, 1) if number % 2 else (1, 0):
            side.engine.observe = ways[way]
            begun = time.perf_counter()
            for _ in range(TURN_STEPS):
                side.engine.step()
            seconds[way] = (time.perf_counter() - begun) / TURN_STEPS
        yield seconds[0], seconds[1]
    while not side.engine.idle():
        side.engine.step()


def large_step(tokens: int) -> tuple[StepRecord, float]:
    """A step of DeepSeek-V3's shape whose shards answer at once: its record, and the seconds it took."""
    random, placement = np.random.default_rng(0), even_placement(EXPERTS, SHARDS)
    pool, x_TD = (
        ExpertPool(at_once(placement.shards), placement, 10.0),
        torch.zeros(tokens, HIDDEN, dtype=torch.bfloat16),
    )
    trace, begun = StepTrace(), time.perf_counter()
    for layer in range(LAYERS):
        ids = random.random((tokens, EXPERTS)).argsort(axis=1)[:, :CHOSEN]
        routing = Routing(ids, np.ones(ids.shape, np.float32))
        trip = pool.combine(pool.dispatch(layer, x_TD, routing), x_TD.device).trip
        trace.trips.append(trip)
        trace.routings.append((layer, routing))
    seconds = time.perf_counter() - begun
    return StepRecord(int(seconds * 1e9), 0, tokens, trace), seconds


def large(tokens: int) -> Cost:
    """What observing such a step costs, against its exchange."""
    steps = [large_step(tokens) for _ in range(REPEATS)]
    placement = even_placement(EXPERTS, SHARDS)
    statistics = Statistics(lambda: placement, LAYERS)
    observed = observe_seconds(statistics, [record for record, _ in steps])
    return Cost(f"DeepSeek-V3's shape, batch {tokens}", min(seconds for _, seconds in steps), observed)


def page() -> dict[str, float]:
    """Seconds of a report and of a scrape, and the series of the page."""
    statistics = Statistics(lambda: even_placement(EXPERTS, SHARDS), LAYERS)
    statistics.observe(large_step(64)[0])
    statistics.flush()
    gauges = replace(GAUGES, connections=GAUGES.connections[:1] * SHARDS)
    best = {"report": 1e9, "scrape": 1e9}
    for _ in range(REPEATS):
        begun = time.perf_counter()
        metric_families = router_series(statistics, statistics.cumulative, gauges, LABELS, MetricsConfig())
        size = len(b"".join(encode(family) for family in metric_families))
        best["report"] = min(best["report"], time.perf_counter() - begun)
        begun = time.perf_counter()
        text = text_of(metric_families)
        best["scrape"] = min(best["scrape"], time.perf_counter() - begun)
    series = sum(not line.startswith("#") for line in text.splitlines())
    return {**best, "report bytes": size, "page bytes": len(text), "series": series}


def render(costs: Sequence[Cost], about_page: dict[str, float]) -> str:
    """The figures as text."""
    rows = [_row(cost) for cost in costs]
    head = ("decoding", "step", "observe", "share", "tokens/s", "measuring")
    said = ", ".join(f"{k} {duration(v) if k in ('report', 'scrape') else int(v)}" for k, v in about_page.items())
    return f"{table(head, rows)}\n\npage of {SHARDS} shards: {said}"


def _row(cost: Cost) -> list[str]:
    share = f"{cost.observe_seconds / cost.step_seconds:.2%}"
    times = [cost.name, duration(cost.step_seconds), f"{cost.observe_seconds * 1e6:.0f} us", share]
    if cost.rate is None or cost.ratio is None:
        return [*times, "-", "-"]
    return [*times, f"{cost.rate:.1f}", f"x {cost.ratio:.4f}"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", type=Path, default=[BUNDLED], metavar="CHECKPOINT")
    parser.add_argument("--turns", type=int, default=12, help="turns of one decoding, of 32 steps each way")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    costs = []
    for directory in args.checkpoints:
        for batch in args.batches:
            costs.append(decoded(directory, batch, args.turns))
            print("  ".join(_row(costs[-1])), file=sys.stderr, flush=True)
    costs += [large(tokens) for tokens in (1, 32)]
    about_page = page()
    print(render(costs, about_page))
    if args.json:
        result = {"machine": machine(), "costs": [asdict(cost) for cost in costs], "page": about_page}
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
