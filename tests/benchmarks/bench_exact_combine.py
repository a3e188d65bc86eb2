"""What `experts.exact_combine` costs an engine: rows instead of sums, in whole steps. `bench_exchange` has a layer's.

    python -m tests.benchmarks.bench_exact_combine --layers 4

The Qwen3-like shape with fewer layers, shards as processes on sockets and in shared memory as in service. Both forms
take turns, step by step over the same connections, in decoding `batch` streams or reading prompts. Bytes are those of
one layer's answers. The ratio is the median of the rounds' own ratios, in brackets that of the fastest tenths: other
work only adds to them.
"""

import argparse
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from cluster.table import duration, size, table
from experts.transport.address import Endpoint
from experts.transport.call import Form, shared_sizes
from experts.transport.trust.credentials import Credentials
from tests.benchmarks.harness.checkpoints import default_directory, shape_of, write
from tests.benchmarks.harness.exchange import NODE, PASSIVE, connected
from tests.benchmarks.harness.worker import Worker
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

CHOSEN, HIDDEN = 8, 1024
FORMS = (Form.SUMS, Form.EACH)


@dataclass(frozen=True)
class Figure:
    """Bytes and seconds by form: the medians; the median of the rounds' ratios, and the ratio of the fastest tenths."""

    what: str
    shards: int
    bytes: tuple[float, float]
    seconds: tuple[float, float]
    ratio: float
    fastest: float

    def row(self) -> list[str]:
        """As a line of the table."""
        return [
            str(self.shards),
            self.what,
            *map(size, map(round, self.bytes)),
            *map(duration, self.seconds),
            f"{self.ratio:.3f} ({self.fastest:.3f})",
        ]


class LoadedShard:
    """A shard of a checkpoint in a process of its own."""

    def __init__(self, directory: Path, index: int, shards: int, credentials: Credentials) -> None:
        from tests.benchmarks.harness.shards import shard_server

        self._server = shard_server(directory, index, shards, credentials, NODE)

    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return self._server.endpoint


def figure(what: str, shards: int, back: list[list[int]], taken: list[list[float]]) -> Figure:
    """Of rounds, the first fifth of which warm up."""
    kept, counted = taken[len(taken) // 5 :], back[len(back) // 5 :]
    ratio = median(each / sums for sums, each in kept)
    sums, each = (median(column) for column in zip(*kept, strict=True))
    fewer, more = (median(column) for column in zip(*counted, strict=True))
    fast, slow = (sorted(column)[len(column) // 10] for column in zip(*kept, strict=True))
    return Figure(what, shards, (fewer, more), (sums, each), ratio, slow / fast)


def in_engine(directory: Path, shards: int, batches: list[int], prompts: list[int], rounds: int) -> list[Figure]:
    """Whole steps: decoding and prompts."""
    credentials = Credentials(secrets.token_bytes(32), bytes(32))
    with ExitStack() as stack:
        made = (Worker(LoadedShard, directory, n, shards, credentials, environment=PASSIVE) for n in range(shards))
        workers = [stack.enter_context(worker) for worker in made]
        share = shared_sizes(1 << 12, HIDDEN, torch.bfloat16, CHOSEN, Form.EACH)
        transport = connected(workers, credentials, share)
        limits = {"kv_cache_tokens": 1 << 14, "token_budget": 1 << 12, "prefix_caching": False}
        settings = {"overlap": "off", "threads": 1, "max_sequences": max(batches), **limits}
        side = stack.enter_context(SteppedEngine(directory, transport, shards, **settings))
        prefills = [prefill(side, length, shards, rounds) for length in prompts]
        return prefills + [decode(side, batch, shards, rounds) for batch in batches]


def turns(side: SteppedEngine, rounds: int) -> tuple[list[list[int]], list[list[float]]]:
    """Steps in turns: bytes of a layer's answers, and seconds."""
    taken, back = [], []
    for _ in range(rounds):
        seconds, bytes_back = [], []
        for form in FORMS:
            side.engine.pool.form = form
            begun = time.perf_counter()
            side.step()
            seconds.append(time.perf_counter() - begun)
            trips = side.records[-1].trace.trips
            bytes_back.append(sum(call.combine_bytes for trip in trips for call in trip.calls) // len(trips))
        taken.append(seconds)
        back.append(bytes_back)
    return back, taken


def decode(side: SteppedEngine, batch: int, shards: int, rounds: int) -> Figure:
    """Steps of `batch` streams."""
    keys = [side.submit([3 + n, 5, 7, 11], 2 * rounds + 9) for n in range(batch)]
    side.until_first_tokens(keys)
    found = figure(f"decode, batch {batch}", shards, *turns(side, rounds))
    side.give_up()
    return found


def prefill(side: SteppedEngine, length: int, shards: int, rounds: int) -> Figure:
    """Steps that read one prompt each, of `length` tokens."""
    taken, back = [], []
    for round_ in range(max(5, rounds // 4)):
        seconds, bytes_back = [], []
        for form in FORMS:
            side.engine.pool.form = form
            key = side.submit([(round_ * 31 + n * 17) % side.vocabulary for n in range(length)], 1)
            side.records.clear()
            begun = time.perf_counter()
            side.until_first_tokens([key])
            seconds.append(time.perf_counter() - begun)
            trips = [trip for record in side.records for trip in record.trace.trips]
            bytes_back.append(sum(call.combine_bytes for trip in trips for call in trip.calls) // len(trips))
        taken.append(seconds)
        back.append(bytes_back)
    return figure(f"prompt of {length}", shards, back, taken)


def checkpoint(layers: int) -> Path:
    """The Qwen3-like shape with so many layers, written now if it is not there yet."""
    directory = default_directory("qwen3", f"{layers}-layers")
    if not (directory / "config.json").exists():
        write(shape_of("qwen3").changed(num_hidden_layers=layers), directory)
    return directory


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompts", type=int, nargs="+", default=[512])
    parser.add_argument("--layers", type=int, default=4, help="of the Qwen3-like checkpoint")
    parser.add_argument("--rounds", type=int, default=80, help="steps of each form; a fourth of them for prompts")
    args = parser.parse_args()
    directory = checkpoint(args.layers)
    found = []
    for shards in args.shards:
        found += in_engine(directory, shards, args.batches, args.prompts, args.rounds)
    head = ["shards", "what", "bytes back a layer: sums", "rows", "time: sums", "rows", "ratio"]
    print(table(head, [one.row() for one in found]))


if __name__ == "__main__":
    main()
