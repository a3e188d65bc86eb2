"""Shards scaled 2 -> 4 -> 3 under 16 streams of the bundled model: what is lost and refused, and how long it takes.

`python -m tests.benchmarks.bench_scale` starts a server, scales it as an operator would, and prints a table's row.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from router_service.client.client import Client
from tests.e2e.load import Load, load
from tests.e2e.server import serving
from tests.e2e.test_scale import PROMPTS, STREAMS, TOKENS, answers, scaled

STEPS = (4, 3)


async def measured(target: str) -> tuple[Load, dict[int, float]]:
    """Scale to each of `STEPS` under load; return what came of the streams, and the seconds of each step."""
    seconds = {}
    async with Client(target) as client, load(target, STREAMS, PROMPTS, TOKENS) as made:
        await answers(made.answers, STREAMS)
        for shards in STEPS:
            began = time.monotonic()
            await client.scale(shards, timeout=60)
            await scaled(client, shards)
            seconds[shards] = time.monotonic() - began
            print(f"{shards} shards after {seconds[shards]:.1f} s, {len(made.answers)} answers so far", flush=True)
            await answers(made.answers, STREAMS)
    return made, seconds


def main() -> None:
    """Print the row."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--shards", "2", "--grpc-port", "0", "--metrics-port", "0")
        with serving(*flags, log=Path(folder) / "log") as server:
            made, seconds = asyncio.run(measured(server.target))
    first = dict(reversed(made.answers))
    differ = sum(tokens != first[which] for which, tokens in made.answers)
    print("| answers | lost | refused | tokens that differ | to 4 shards | to 3 shards |")
    print("|---|---|---|---|---|---|")
    row = f"{len(made.answers)} | {len(made.lost)} | {len(made.refused)} | {differ}"
    print(f"| {row} | {seconds[4]:.1f} s | {seconds[3]:.1f} s |")


if __name__ == "__main__":
    main()
