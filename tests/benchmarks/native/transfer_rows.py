"""Rows `exchange` and `loading`: bytes between processes, and from the disk."""

import os
import subprocess
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.harness import exchange
from tests.benchmarks.harness.worker import Worker
from tests.benchmarks.native.figure import Figure, absent, ratio
from tests.benchmarks.native.plan import DTYPE, Plan

TOKENS = (1, 64)
ROUNDS = 200  # exchanges of each round, of which the median counts
ROW_BYTES, ANSWER_BYTES = 2, 4  # bfloat16 to the shards, float32 back
HANDLES = "skipped: Ray Serve did not start"


def exchange_row(plan: Plan) -> list[Figure]:
    """One layer's exchange with all shards, nothing computed, beside a bare ping-pong of the rows and Serve handles."""
    plan.close()
    hidden = int(plan.config["hidden_size"])
    payloads = [exchange.Payload(tokens * hidden * ROW_BYTES, tokens * hidden * ANSWER_BYTES) for tokens in TOKENS]
    handles = _handles(plan, payloads)
    figures = []
    for number, (tokens, payload) in enumerate(zip(TOKENS, payloads)):
        gate = (plan.sizes.experts, plan.sizes.top_k, hidden)
        ours, bare = [], []
        for _ in range(plan.rounds):
            ours.append(1e6 * median(exchange.our_data_plane(plan.shards, *gate, tokens, ROUNDS)))
            bare.append(1e6 * median(exchange.bare_sockets(plan.shards, payload, ROUNDS)))
        name = f"{plan.shape}, {plan.shards} shards, {tokens} tokens of {hidden}"
        figures += _exchange_figures(name, ours, bare, handles[number] if handles else [])
    return figures


def loading(plan: Plan) -> list[Figure]:
    """Loading the checkpoint into one process, against `dd` of the same files; the page cache is emptied of both."""
    plan.close()
    read, loaded = [], []
    for _ in range(plan.rounds):
        evict(plan.directory)
        read.append(dd_seconds(plan.directory))
        evict(plan.directory)
        with Worker(Loader, plan.directory) as worker:
            loaded.append(worker.call("load"))
    size = sum(file.stat().st_size for file in plan.directory.glob("*.safetensors"))
    name, rates = plan.shape, [tuple(size / 1e9 / s for s in seconds) for seconds in (read, loaded)]
    return [
        Figure("loading", f"{name}: dd", "GB/s", rates[0]),
        Figure("loading", f"{name}: one process", "GB/s", rates[1], floor=median(rates[0])),
        ratio("loading", f"{name}: one process / dd", rates[1], rates[0], 0.8, at_least=True),
    ]


class Loader:
    """Loads a checkpoint in a process of its own, imports left out."""

    def __init__(self, directory: Path) -> None:
        from tests.benchmarks.harness import sides

        self._directory, self._sides = directory, sides

    def load(self) -> float:
        """Seconds."""
        import cluster.planner.model  # noqa: F401
        import router_service.engine.builder  # noqa: F401

        begun = time.perf_counter()
        self._sides.OneProcess(self._directory, DTYPE, 1024)
        return time.perf_counter() - begun


def evict(directory: Path) -> None:
    """Drop the files from the page cache; what is not written yet is written first."""
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def dd_seconds(directory: Path) -> float:
    """Seconds that `dd` takes to read the files, one after the other."""
    begun = time.perf_counter()
    for file in sorted(directory.glob("*.safetensors")):
        subprocess.run(["dd", f"if={file}", "of=/dev/null", "bs=4M", "status=none"], check=True)
    return time.perf_counter() - begun


def _exchange_figures(name: str, ours: list[float], bare: list[float], handles: list[float]) -> list[Figure]:
    figures = [
        Figure("exchange", f"{name}: our data plane", "us", tuple(ours), floor=median(bare)),
        Figure("exchange", f"{name}: bare ping-pong", "us", tuple(bare)),
        ratio("exchange", f"{name}: ours / bare ping-pong", ours, bare, 2.0),
    ]
    what = f"{name}: Serve handles / ours"
    if not handles:
        return [*figures, absent("exchange", what, HANDLES, 25.0, at_least=True)]
    figures.append(Figure("exchange", f"{name}: Serve handles", "us", tuple(handles)))
    return [*figures, ratio("exchange", what, handles, ours, 25.0, at_least=True)]


def _handles(plan: Plan, payloads: list[exchange.Payload]) -> list[list[float]]:
    """Microseconds of each round between Serve replicas for each payload; the rounds follow each other."""
    import ray

    ray.init(num_cpus=plan.shards, include_dashboard=False, log_to_driver=False)
    try:
        rounds = [exchange.serve_handles(plan.shards, payloads, ROUNDS) for _ in range(plan.rounds)]
    finally:
        ray.shutdown()
    return [[1e6 * median(times[number]) for times in rounds] for number in range(len(payloads))]
