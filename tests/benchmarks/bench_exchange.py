"""One MoE layer's exchange with nothing computed: sums or rows, by socket or in shared memory, beside a bare socket.

    python -m tests.benchmarks.bench_exchange --shards 2 --tokens 1 8 64 512

The Qwen3-like shape: 64 experts, top-8, rows of 1024 in bf16. All ways take turns in each round, over connections to
the same shard processes. Grouping, packing, waiting and adding are included. "Bare" is a ping-pong of as many bytes as
the sums take, over unix sockets, with processes that do nothing else.
"""

import argparse
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median

import torch

from cluster.table import duration, table
from experts.placement import even_placement
from experts.pool import ExpertPool
from experts.transport.call import Form, shared_sizes
from experts.transport.trust.credentials import Credentials
from tests.benchmarks.harness.exchange import PASSIVE, EchoShard, EchoSocket, Payload, connected, ping, time_exchange
from tests.benchmarks.harness.worker import Worker

EXPERTS, CHOSEN, HIDDEN = 64, 8, 1024
HEADS = 104  # of a frame and its payload
WARM_UP = 20
Way = Callable[[int], float]


def pools(workers: list[Worker], credentials: Credentials, tokens: int, stack: ExitStack) -> dict[str, ExpertPool]:
    """A pool for each way."""
    found = {}
    for where in ("socket", "shared memory"):
        for form in Form:
            sizes = shared_sizes(tokens, HIDDEN, torch.bfloat16, CHOSEN, form)
            transport = connected(workers, credentials, sizes if where == "shared memory" else None)
            stack.callback(transport.close)
            placement = even_placement(EXPERTS, len(workers))
            found[f"{'sums' if form is Form.SUMS else 'rows'}, {where}"] = ExpertPool(
                transport, placement, 30.0, form is Form.EACH
            )
    return found


def bare(shards: int, tokens: int, rounds: int, stack: ExitStack) -> Way:
    """The ping-pong."""
    asked = CHOSEN * tokens // shards  # each shard gets all tokens unless they are fewer than what it holds of them
    payload = Payload(HEADS + min(tokens, asked) * HIDDEN * 2 + 12 * asked, HEADS + min(tokens, asked) * HIDDEN * 4)
    pairs = [socket.socketpair() for _ in range(shards)]
    workers = [stack.enter_context(Worker(EchoSocket, theirs, payload)) for _, theirs in pairs]
    for worker in workers:
        worker.begin("echo", rounds)
    for ours, theirs in pairs:
        stack.callback(ours.close)
        stack.callback(theirs.close)
    return lambda _: ping([ours for ours, _ in pairs], payload)


def measure(shards: int, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round by way."""
    torch.set_num_threads(1)
    credentials, x_TD = Credentials(secrets.token_bytes(32), bytes(32)), torch.randn(tokens, HIDDEN).bfloat16()
    with ExitStack() as stack:
        made = (Worker(EchoShard, index, credentials, environment=PASSIVE) for index in range(shards))
        workers = [stack.enter_context(worker) for worker in made]
        ways: dict[str, Way] = {"bare": bare(shards, tokens, WARM_UP + rounds, stack)}
        for name, pool in pools(workers, credentials, tokens, stack).items():
            ways[name] = lambda seed, pool=pool: time_exchange(pool, EXPERTS, CHOSEN, x_TD, seed)[0]  # type: ignore[misc]
        stack.enter_context(torch.inference_mode())
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(WARM_UP + rounds):
            for name, way in ways.items():
                taken[name].append(way(number))
    return {name: sorted(seconds[WARM_UP:]) for name, seconds in taken.items()}


def summary(seconds: list[float]) -> str:
    """The median, and what the fastest tenth took at most: other work only adds to it."""
    return f"{duration(median(seconds))} ({duration(seconds[len(seconds) // 10])})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[2])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    rows: list[list[str]] = []
    for shards in args.shards:
        for tokens in args.tokens:
            found = measure(shards, tokens, args.rounds)
            rows.append([str(shards), str(tokens), *map(summary, found.values())])
    print("median, in brackets what the fastest tenth took at most")
    print(table(["shards", "tokens", *found], rows))


if __name__ == "__main__":
    main()
