"""Everything at once for twenty minutes: memory, descriptors and latency must stay flat.

    make soak ARGS="--minutes 20 --seed N"

A cluster of four shards with two copies and two routers serves streams while shards and routers are killed or held
still by turns, clients vanish in the middle of an answer, and every answer is compared with the undisturbed one. Once a
minute the resident memory and the descriptors of the processes that live on (Front, launcher, registry) and the pauses
of the streams are noted. It fails if an answer is lost or differs, or if the second half is worse than the first.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from cluster.table import duration, size
from router_service.client.client import Client
from tests.benchmarks.failover import processes, strikes
from tests.benchmarks.failover.flows import Flows, flowing, prompts_of, references
from tests.e2e.server import Server, serving

STREAMS, PROMPTS, NEW_TOKENS, VANISHING = 12, 16, 96, 4
LEAST_MINUTES = 4  # fewer have no halves to compare
# What the second half of a run may take more than the first: caches fill, allocators keep what they had.
MORE_BYTES, MORE_DESCRIPTORS, MORE_PAUSE = 64 << 20, 16, 2.0


@dataclass(frozen=True)
class Minute:
    """What a minute ended with: bytes and descriptors of the lasting processes, and its pauses' median."""

    resident: int
    descriptors: int
    pause_s: float
    tokens: int


async def soak(server: Server, minutes: int, seed: int) -> tuple[list[Minute], Flows]:
    """Let streams flow and strike by turns; returns the minutes and all that came of the streams."""
    draw = random.Random(seed)
    async with Client(server.target) as client:
        await client.wait_ready(60.0)
        prompts = prompts_of((await client.model()).vocabulary, PROMPTS)
        expected = await references(client, prompts, NEW_TOKENS)
    noted: list[Minute] = []
    async with flowing(server.target, STREAMS, prompts, expected) as flows:
        vanishing = [asyncio.create_task(_vanish(server.target, prompts, draw)) for _ in range(VANISHING)]
        try:
            for number in range(minutes):
                since, tokens = len(flows.gaps), flows.tokens
                await _struck_minute(server, draw)
                noted.append(_note(server, flows, since, tokens))
                print(f"minute {number + 1}: {_said(noted[-1])}, lost {len(flows.lost)}", flush=True)
        finally:
            for task in vanishing:
                task.cancel()
    return noted, flows


async def _struck_minute(server: Server, draw: random.Random) -> None:
    begun = time.monotonic()
    while (left := 60.0 - (time.monotonic() - begun)) > 0:
        strike = draw.choice((strikes.kill_shards, strikes.stop_shard, strikes.kill_router, strikes.kill_registry))
        said = await strike(server, draw, min(left, 15.0))
        print(f"  {'; '.join(said)}", flush=True)
        await asyncio.sleep(min(max(0.0, left), 5.0))


async def _vanish(target: str, prompts: Sequence[list[int]], draw: random.Random) -> None:
    """Begin an answer, hang up in its middle, again and again."""
    while True:
        with contextlib.suppress(Exception):  # refused or struck: the next one
            async with Client(target) as client:
                async for _ in client.generate(tokens=draw.choice(prompts), max_tokens=200, timeout=60.0):
                    if draw.random() < 0.1:
                        break
        await asyncio.sleep(0.5)


def _note(server: Server, flows: Flows, since: int, tokens: int) -> Minute:
    lasting = [server.process.pid, *processes.found(server, processes.FRONT)]
    resident = descriptors = 0
    for pid in lasting:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            resident += process.memory_info().rss
            descriptors += process.num_fds()
    pauses = [seconds for _, seconds in flows.gaps[since:]]
    return Minute(resident, descriptors, median(pauses) if pauses else 0.0, flows.tokens - tokens)


def _said(minute: Minute) -> str:
    memory = f"{size(minute.resident)}, {minute.descriptors} descriptors"
    return f"{memory}, median pause {duration(minute.pause_s)}, {minute.tokens} tokens"


def faults(noted: Sequence[Minute], flows: Flows) -> list[str]:
    """What is not flat, lost or different; empty if all is well. The first minute warms up and does not count."""
    found = [f"{len(flows.lost)} streams lost: {flows.lost[:3]}"] if flows.lost else []
    found += [f"{len(flows.differ)} answers differ: {flows.differ[:3]}"] if flows.differ else []
    first, second = noted[1 : (len(noted) + 1) // 2], noted[(len(noted) + 1) // 2 :]
    more = median(m.resident for m in second) - median(m.resident for m in first)
    if more > MORE_BYTES:
        found.append(f"memory grew by {size(more)} from the first half to the second")
    more = median(m.descriptors for m in second) - median(m.descriptors for m in first)
    if more > MORE_DESCRIPTORS:
        found.append(f"descriptors grew by {more:.0f}")
    ratio = median(m.pause_s for m in second) / max(1e-9, median(m.pause_s for m in first))
    return found + ([f"the median pause grew {ratio:.1f} times"] if ratio > MORE_PAUSE else [])


def main() -> int:
    """Parse arguments, run, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=20, help=f"at least {LEAST_MINUTES}")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31), help="what the strikes are drawn from")
    args = parser.parse_args()
    if args.minutes < LEAST_MINUTES:
        parser.error(f"--minutes is {args.minutes}, it must be at least {LEAST_MINUTES}")
    print(f"seed {args.seed}", flush=True)
    arguments = ("--shards", "4", "--copies", "2", "--routers", "2")
    arguments += ("--grpc-port", "0", "--metrics-port", "0", "--http-port", "0")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(*arguments, log=Path(folder) / "log") as server,
    ):
        noted, flows = asyncio.run(soak(server, args.minutes, args.seed))
    found = faults(noted, flows)
    print("\n".join(found) if found else f"flat: {flows.answers} answers, none lost, none different")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
