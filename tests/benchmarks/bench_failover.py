"""What kill -9 of a shard costs under load: how each stream ends, and the seconds until all is as before.

    python -m tests.benchmarks.bench_failover [CHECKPOINT]

Starts a cluster (of the bundled model unless told otherwise), kills one shard while streams decode, and prints the
seconds from the kill until the streams stall, the router says so, a replacement is ready, the first token after, and
the answer to a new request that was made as the shard died. Every wait is bounded by `--timeout`.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cluster.table import table
from router_service.client.client import Client
from tests.benchmarks.harness.streams import Stream

WARM_TOKENS = 8  # that every stream has before the kill
POLL_SECONDS = 0.02
GAP_SECONDS = 0.3  # a pause this long around the kill counts as a stall


@dataclass(frozen=True)
class Seen:
    """Seconds from the kill; None where it did not come to be in time."""

    last_token_before: float | None
    router_says_unreachable: float | None
    replacement_ready: float | None
    first_token_after: float | None
    new_request_answered: float | None
    all_streams_ended: float | None


async def strike(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    """Start the streams, kill the shard, watch until everything has ended."""
    model = await client.model()
    prompt_tokens = min(32, model.context // 4)
    new_tokens = min(args.tokens, model.context - prompt_tokens - 1)
    draw = random.Random(0)
    prompts = [[draw.randrange(model.vocabulary) for _ in range(prompt_tokens)] for _ in range(args.streams)]
    streams = [Stream.start(client, tokens, new_tokens, args.timeout) for tokens in prompts]
    async with asyncio.timeout(args.timeout):
        while min(len(stream.times) for stream in streams) < WARM_TOKENS:
            await asyncio.sleep(POLL_SECONDS)
    pid = await shard_pid(client, args.shard)
    killed = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    watched = asyncio.create_task(watch_shard(client, args.shard, pid, killed, args.timeout))
    fresh = asyncio.create_task(new_request(client, prompts[0], args.timeout))
    await asyncio.wait([stream.task for stream in streams])
    unreachable, replaced = await watched
    answered = await fresh
    return summary(streams, killed, (unreachable, replaced, answered and answered - killed))


async def shard_pid(client: Client, shard: int) -> int:
    """The process that holds a shard."""
    state = await client.cluster(timeout=10.0)
    return next(one.pid for one in state.shards if one.shard == shard)


async def watch_shard(
    client: Client, shard: int, dead: int, killed: float, timeout_s: float
) -> tuple[float | None, float | None]:
    """Seconds until GetCluster no longer says ready of the dead process, and until it says so of another."""
    gone: float | None = None
    while (since := time.perf_counter() - killed) < timeout_s:
        state = await client.cluster(timeout=10.0)
        ready = {one.pid for one in state.shards if one.shard == shard and one.state == "ready"}
        if gone is None and dead not in ready:
            gone = since
        if ready - {dead}:
            return gone, since
        await asyncio.sleep(POLL_SECONDS)
    return gone, None


async def new_request(client: Client, tokens: list[int], timeout_s: float) -> float | None:
    """When a request made now is answered, tried again while it is refused; None if that is never."""
    deadline = time.perf_counter() + timeout_s
    while (left := deadline - time.perf_counter()) > 0:
        stream = Stream.start(client, tokens, 4, left)
        await stream.task
        if stream.ended == "LENGTH":
            return stream.ended_at
        await asyncio.sleep(0.1)
    return None


def summary(streams: list[Stream], killed: float, watched: tuple[float | None, ...]) -> dict[str, Any]:
    """What is printed: ends by kind, and the times."""
    after = sorted(at for stream in streams for at in stream.times if at > killed - POLL_SECONDS)
    gap = next(((a, b) for a, b in pairwise(after) if b - a > GAP_SECONDS), None)
    unreachable, replaced, answered = watched
    last, first = (at - killed for at in gap) if gap else (None, None)
    ended = max(stream.ended_at for stream in streams) - killed
    ends = Counter(stream.ended + (f": {stream.detail}" if stream.detail else "") for stream in streams)
    tokens = [len(stream.times) for stream in streams]
    return {
        "ends": dict(ends),
        "tokens": tokens,
        "seconds": asdict(Seen(last, unreachable, replaced, first, answered, ended)),
    }


def render(result: dict[str, Any]) -> str:
    """The result as text."""
    ends = [f"  {count:3d} x {end}" for end, count in result["ends"].items()]
    named = [(name.replace("_", " "), value) for name, value in result["seconds"].items()]
    rows = [(name, "not seen" if value is None else f"{value:.2f}") for name, value in named]
    lines = ["how the streams ended:", *ends, "", table(["seconds from the kill", ""], rows)]
    return "\n".join(lines)


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, help="directory (default: the bundled model)")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--shard", type=int, default=0, help="the one to kill")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512, help="new tokens of each stream, if the context allows")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds that any stream or wait may take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    from tests.benchmarks.harness.cluster_side import Cluster

    with Cluster(args.checkpoint, args.shards, "auto", name="failover") as cluster:
        result = cluster.run(strike(cluster.client, args))
    print(render(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
