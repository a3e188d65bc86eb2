"""What `experts.exact_combine` costs: rows instead of sums, in the exchange of a layer alone and in an engine's steps.

    python -m tests.benchmarks.bench_exact_combine --layers 4

Both forms take turns over the same connections to the same shard processes. "Alone": shards that compute nothing answer
with zeros of the right size. "In an engine": the Qwen3-like shape with fewer layers, whole steps of an engine over
sockets, decoding `batch` streams or reading a prompt. Bytes are those of one layer's answers on the wire.
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
from experts.placement import even_placement
from experts.pool import ExpertPool
from experts.transport.address import Endpoint
from experts.transport.call import Form
from experts.transport.channel import connect
from experts.transport.credentials import Credentials
from experts.transport.socket import SocketTransport
from tests.benchmarks.harness.checkpoints import default_directory, shape_of, write
from tests.benchmarks.harness.exchange import NODE, PASSIVE, EchoShard, time_exchange
from tests.benchmarks.harness.worker import Worker
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

EXPERTS, CHOSEN, HIDDEN = 64, 8, 1024
TIMEOUT_S = 60.0
FORMS = (Form.SUMS, Form.EACH)


@dataclass(frozen=True)
class Figure:
    """Bytes and seconds by form: the medians, and the median of the rounds' ratios."""

    what: str
    shards: int
    bytes: tuple[float, float]
    seconds: tuple[float, float]
    ratio: float

    def row(self) -> list[str]:
        """As a line of the table."""
        return [
            str(self.shards),
            self.what,
            *map(size, map(round, self.bytes)),
            *map(duration, self.seconds),
            f"{self.ratio:.3f}",
        ]


class LoadedShard:
    """A shard of a checkpoint in a process of its own."""

    def __init__(self, directory: Path, index: int, shards: int, credentials: Credentials) -> None:
        from tests.benchmarks.harness.shards import shard_server

        self._server = shard_server(directory, index, shards, credentials, NODE)

    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return self._server.endpoint


def connected(workers: list[Worker], credentials: Credentials) -> SocketTransport:
    """A transport to all of them."""
    transport = SocketTransport()
    for index, worker in enumerate(workers):
        channel = connect(worker.call("endpoint"), NODE, credentials, TIMEOUT_S)
        channel.set_timeouts(TIMEOUT_S)
        transport.offer(index, channel)
    return transport


def alone(shards: int, batches: list[int], rounds: int) -> list[Figure]:
    """The exchange of one layer."""
    credentials, found = Credentials(secrets.token_bytes(32), bytes(32)), []
    with ExitStack() as stack:
        made = (Worker(EchoShard, index, credentials, environment=PASSIVE) for index in range(shards))
        workers = [stack.enter_context(worker) for worker in made]
        transport = connected(workers, credentials)
        stack.callback(transport.close)
        pool = ExpertPool(transport, even_placement(EXPERTS, shards), TIMEOUT_S)
        for batch in batches:
            x_TD, taken, back = torch.randn(batch, HIDDEN).bfloat16(), [], []
            for round_ in range(rounds):
                both = []
                for form in FORMS:
                    pool.form = form
                    both.append(time_exchange(pool, EXPERTS, CHOSEN, x_TD, round_))
                taken.append([seconds for seconds, _ in both])
                back.append([sum(call.combine_bytes for call in trip.calls) for _, trip in both])
            found.append(figure(f"alone, {batch} tokens", shards, back, taken))
    return found


def figure(what: str, shards: int, back: list[list[int]], taken: list[list[float]]) -> Figure:
    """Of rounds, the first fifth of which warm up."""
    kept, counted = taken[len(taken) // 5 :], back[len(back) // 5 :]
    ratio = median(each / sums for sums, each in kept)
    sums, each = (median(column) for column in zip(*kept, strict=True))
    fewer, more = (median(column) for column in zip(*counted, strict=True))
    return Figure(what, shards, (fewer, more), (sums, each), ratio)


def in_engine(directory: Path, shards: int, batches: list[int], prompts: list[int], rounds: int) -> list[Figure]:
    """Whole steps: decoding and prompts."""
    credentials = Credentials(secrets.token_bytes(32), bytes(32))
    with ExitStack() as stack:
        made = (Worker(LoadedShard, directory, n, shards, credentials, environment=PASSIVE) for n in range(shards))
        transport = connected([stack.enter_context(worker) for worker in made], credentials)
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
    parser.add_argument("--rounds", type=int, default=200, help="of the exchange; a fourth of them of steps")
    args = parser.parse_args()
    directory = checkpoint(args.layers)
    found = []
    for shards in args.shards:
        found += alone(shards, args.batches, args.rounds)
        found += in_engine(directory, shards, args.batches, args.prompts, args.rounds // 4)
    head = ["shards", "what", "bytes back a layer: sums", "rows", "time: sums", "rows", "ratio"]
    print(table(head, [one.row() for one in found]))


if __name__ == "__main__":
    main()
