"""This server beside transformers, and its all-to-all beside other ways, in one run.

    python -m tests.benchmarks.bench_serving --shape qwen3

Prints prefill and decode tokens/s of the real cluster (Ray, Front, Router, shards; over gRPC), of our engine in one
process, and of transformers with the best of its experts' implementations, taking turns within each repeat so that a
noisy neighbour hits all of them; what a layer's exchange costs in service and alone, beside Serve handles and a bare
socket; the time to ready; the peak memory of each process. The checkpoint is random, written once and kept in the
user's cache.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.harness import report
from tests.benchmarks.harness.checkpoints import SHAPES, ensure
from tests.benchmarks.harness.sides import OneProcess, Tokens, TransformersModel
from tests.benchmarks.harness.worker import Worker

PREFILL, PROMPT, STEPS, TRIAL_STEPS = 512, 64, 48, 6
WATCHED_TOKENS = 1024  # of each stream while the metrics are watched
CLOSE_ENOUGH = 1.25
Seconds = Callable[[int, int], float]  # (seed, steps): seconds of one run


class Cell:
    """One thing to measure: `batch` prompts of one length; 0 is a prefill."""

    def __init__(self, batch: int, vocabulary: int, prefill: int = PREFILL) -> None:
        self.batch, self.length = batch, PROMPT if batch else prefill
        self.name = f"decode, batch {batch}" if batch else f"prefill {prefill}"
        self._vocabulary = vocabulary

    def prompts(self, seed: int) -> list[Tokens]:
        """Random prompts, the same for all sides and others in each repeat."""
        draw = random.Random(f"{self.name} {seed}")
        return [[draw.randrange(self._vocabulary) for _ in range(self.length)] for _ in range(self.rows)]

    @property
    def rows(self) -> int:
        """Prompts of one run."""
        return max(1, self.batch)

    def rate(self, seconds: float, steps: int) -> float:
        """Tokens per second."""
        return (self.batch * steps if self.batch else self.length) / seconds

    def run(self, call: Callable[..., float], first: tuple[Any, ...], seed: int, steps: int) -> float:
        """Seconds of one run of a side's `prefill` or `decode`, chosen by name."""
        prompts = self.prompts(seed)
        return call("decode", *first, prompts, steps) if self.batch else call("prefill", *first, prompts[0])


def kv_tokens(args: argparse.Namespace) -> int:
    """A KV cache for what is measured and no more, so that its memory can be compared."""
    block = 16
    return int(max(args.batches) + 1) * (max(PREFILL, PROMPT + WATCHED_TOKENS) + block)


def call_cluster(cluster: Any) -> Callable[..., float]:
    """The cluster's methods by name, as a worker's are."""
    return lambda method, *args: getattr(cluster, method)(*args)


def sides_of(cell: Cell, cluster: Any, one: Worker | None, theirs: Worker | None) -> dict[str, Seconds]:
    """Who takes part in a cell; transformers with the implementations that a short trial does not rule out."""
    sides: dict[str, Seconds] = {}
    if cluster is not None:
        sides["cluster"] = lambda seed, steps: cell.run(call_cluster(cluster), (), seed, steps)
    if one is not None:
        sides["one process"] = lambda seed, steps: cell.run(one.call, (), seed, steps)
    if theirs is not None:
        for name in _fast_ones(cell, theirs, theirs.call("implementations", cell.batch or cell.length)):
            sides[f"transformers {name}"] = _theirs(cell, theirs, name)
    return sides


def _theirs(cell: Cell, worker: Worker, name: str) -> Seconds:
    return lambda seed, steps: cell.run(worker.call, (name,), seed, steps)


def _fast_ones(cell: Cell, worker: Worker, names: list[str]) -> list[str]:
    """Two trials each, the first of which warms up."""
    taken = {name: [_theirs(cell, worker, name)(-1, TRIAL_STEPS) for _ in range(2)][-1] for name in names}
    return [name for name in names if taken[name] <= CLOSE_ENOUGH * min(taken.values())]


def measure(cell: Cell, sides: dict[str, Seconds], repeats: int, steps: int = STEPS) -> dict[str, list[float]]:
    """Tokens per second of each side in each repeat, all sides taking turns; a short round first to warm up."""
    for side in sides.values():
        side(-2, TRIAL_STEPS)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        for name, side in sides.items():
            rates[name].append(cell.rate(side(repeat, steps), steps))
    return rates


def measure_all(args: argparse.Namespace, cluster: Any, directory: Path, vocabulary: int) -> dict[str, Any]:
    """The table of rates, and what the compared processes took at most."""
    with ExitStack() as stack:
        theirs = stack.enter_context(Worker(TransformersModel, directory, args.dtype))
        one = stack.enter_context(Worker(OneProcess, directory, args.dtype, kv_tokens(args))) if cluster else None
        cells = [Cell(batch, vocabulary) for batch in (0, *args.batches)]
        rates = {}
        for cell in cells:
            rates[cell.name] = measure(cell, sides_of(cell, cluster, one, theirs), args.repeats)
            print(report.rate_line(cell.name, rates[cell.name]), file=sys.stderr, flush=True)
        peaks = {"transformers": theirs.peak_bytes} | ({"one process": one.peak_bytes} if one else {})
    return {"rates": rates, "peaks": peaks}


def measure_exchange(args: argparse.Namespace, cluster: Any, vocabulary: int) -> list[dict[str, Any]]:
    """For each batch: the phases in service, then the exchange alone by each way."""
    from tests.benchmarks.harness import exchange, in_service

    gate = in_service.gate_of(cluster)
    watched = (args.seconds, WATCHED_TOKENS)
    rows = [in_service.watch(cluster, Cell(batch, vocabulary).prompts(-3), *watched) for batch in args.batches]
    payloads = [exchange.Payload(round(row["bytes out"]), round(row["bytes back"])) for row in rows]
    handles = [] if args.skip_serve_handles else exchange.serve_handles(args.shards, payloads, args.rounds)
    for number, (batch, row, payload) in enumerate(zip(args.batches, rows, payloads)):
        ours = exchange.our_data_plane(args.shards, *gate, batch, args.rounds)
        bare = exchange.bare_sockets(args.shards, payload, args.rounds)
        row |= {"batch": batch, "our data plane": median(ours), "bare socket": median(bare)}
        row["serve handles"] = median(handles[number]) if handles else None
    return rows


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything, printed as it comes."""
    from tests.benchmarks.harness.cluster_side import Cluster

    directory = ensure(args.shape, args.scale, args.checkpoint)
    vocabulary = json.loads((directory / "config.json").read_text())["vocab_size"]
    result: dict[str, Any] = {"machine": report.machine(), "settings": report.settings(args)}
    print(report.heading(result), flush=True)
    with Cluster(directory, args.shards, args.dtype, kv_tokens(args)) as cluster:
        result |= {"start": cluster.start_events, "idle cores": cluster.idle_cores(3.0)}
        result |= measure_all(args, cluster, directory, vocabulary)
        print(report.rates(result["rates"]), flush=True)
        result["exchange"] = measure_exchange(args, cluster, vocabulary)
        print(report.exchange(result["exchange"]), flush=True)
        result["processes"] = [asdict(process) for process in cluster.processes()]
    print(report.start(result["start"]), report.memory(result["processes"], result["peaks"]), sep="\n")
    print(f"\nidle, all processes of the cluster use {result['idle cores']:.2f} cores")
    return result


def main() -> None:
    """Parse arguments, measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3")
    parser.add_argument("--scale", choices=["full", "small"], default="full", help="small is for smoke tests")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="where it is, or is to be written")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=300, help="of each exchange that is measured alone")
    parser.add_argument("--seconds", type=float, default=8.0, help="of decoding that the metrics watch, per batch")
    parser.add_argument("--skip-serve-handles", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    args = parser.parse_args()
    result = run(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
