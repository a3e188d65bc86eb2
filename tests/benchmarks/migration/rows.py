"""The rows of the table: a cluster, streams, experts that move every few seconds, and what came of it."""

import asyncio
import random
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from router_service.client.client import Client
from tests.benchmarks.failover import processes
from tests.benchmarks.failover.flows import Flows, flowing, prompts_of, references
from tests.e2e.server import Server, serving
from tests.support.mover import Moved, Mover, moving

PROMPTS = 16
BEGUN = time.monotonic()
WHOLE_S = 120.0
# Of a row at most: to start, to end, and for each move.
ROW_S, MOVE_S, KILL_S = 300.0, 30.0, 60.0
NAME = "expertmesh"
RAY = re.compile(r"ready .* ray=(\S+)")
# Each shard may hold everything: what moves is drawn without regard to memory.
SECTIONS = {"router": {"unavailable_wait_seconds": 200}, "balance": {"extra_copies": 1000, "bandwidth_mib": 200}}


@dataclass(frozen=True)
class Row:
    """A cluster of so many shards and copies whose experts move every `every_s` seconds, `moves` times.

    `kill`: a shard is killed in each move, at a moment that is drawn.
    """

    name: str
    kill: bool = False
    shards: int = 4
    copies: int = 1
    streams: int = 16
    every_s: float = 5.0
    moves: int = 12
    new_tokens: int = 96

    @property
    def limit_s(self) -> float:
        """What it may take at most once its cluster is ready, without the calm before."""
        return ROW_S + self.moves * (self.every_s + (KILL_S if self.kill else MOVE_S))


ROWS = (
    Row("experts move every 5 s"),
    Row("experts move every 5 s, two copies", copies=2),
    Row("a shard killed in each move, two copies", kill=True, copies=2, moves=20),
)


@dataclass(frozen=True)
class Figures:
    """What a row measured: before experts moved and while they did. Seconds and tokens a second."""

    name: str
    states: dict[str, int]
    copies_moved: int
    move_s: float
    answers: int
    lost: list[str]
    differ: list[str]
    gap_before: float
    gap: float
    p50_before: float
    p50: float
    p99_before: float
    p99: float
    rate_before: float
    rate: float
    faults: list[str]


def measure(row: Row, checkpoint: Path | None, seed: int, calm_s: float) -> Figures:
    """Start the row's cluster, let streams flow, move experts, and take it down.

    Raises:
        TimeoutError: the row took longer than `Row.limit_s` allows.
    """
    say(row, "starting")
    experts = {"shards": row.shards, "copies": row.copies}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(SECTIONS | {"experts": experts}))
        arguments = [str(checkpoint)] if checkpoint else []
        arguments += ["--config", str(config), "--grpc-port", "0", "--metrics-port", "0", "--http-port", "0"]
        with serving(*arguments, log=Path(folder) / "log") as server:
            found = RAY.search(server.log.read_text())
            assert found is not None, "the ready line names its Ray"
            with moving(found[1], NAME, {"experts": experts}, checkpoint) as mover:
                return asyncio.run(asyncio.wait_for(_moved(server, mover, row, seed, calm_s), calm_s + row.limit_s))


def say(row: Row, what: str) -> None:
    """Progress, with the time since the benchmark began."""
    print(f"{time.monotonic() - BEGUN:6.0f} s  {row.name}: {what}", flush=True)


async def _moved(server: Server, mover: Mover, row: Row, seed: int, calm_s: float) -> Figures:
    async with Client(server.target) as client:
        await client.wait_ready(60.0)
        say(row, "undisturbed answers")
        prompts = prompts_of((await client.model()).vocabulary, PROMPTS)
        expected = await references(client, prompts, row.new_tokens)
    say(row, f"{row.streams} streams for {calm_s:.0f} s, nothing moves")
    async with flowing(server.target, row.streams, prompts, expected) as before:
        await asyncio.sleep(calm_s)
    async with flowing(server.target, row.streams, prompts, expected) as flows:
        moves = await _moves(server, mover, row, random.Random(seed))
    return _figures(row, moves, before, flows)


async def _moves(server: Server, mover: Mover, row: Row, draw: random.Random) -> list[Moved]:
    done: list[Moved] = []
    for number in range(row.moves):
        begun = time.monotonic()
        await asyncio.to_thread(mover.move, draw.randrange(1 << 31))
        if row.kill:
            await asyncio.sleep(draw.uniform(0.0, 2.0))
            living = processes.shards(server)
            processes.kill(living[draw.choice(sorted(living))])
        done.append(await asyncio.to_thread(mover.wait))
        if row.kill:
            await _whole_again(server, row.shards)
        say(row, f"move {number + 1} of {row.moves}: {done[-1]['state']} {done[-1]['reason']}".rstrip())
        await asyncio.sleep(max(0.0, begun + row.every_s - time.monotonic()))
    return done


async def _whole_again(server: Server, shards: int) -> None:
    """Until every shard is ready: the next kill may take a copy that is the last."""
    async with asyncio.timeout(WHOLE_S), Client(server.target) as client:
        while True:
            listed = (await client.cluster()).shards
            if len(listed) == shards and all(one.state == "ready" for one in listed):
                return
            await asyncio.sleep(0.25)


def _figures(row: Row, moves: list[Moved], before: Flows, flows: Flows) -> Figures:
    states = [one["state"] for one in moves]
    return Figures(
        name=row.name,
        states={state: states.count(state) for state in sorted(set(states))},
        copies_moved=sum(one["copies_added"] for one in moves if one["state"] == "done"),
        move_s=max(one["ended"] - one["began"] for one in moves),
        answers=flows.answers,
        lost=before.lost + flows.lost,
        differ=before.differ + flows.differ,
        gap_before=before.gap(),
        gap=flows.gap(),
        p50_before=before.gap(0.5),
        p50=flows.gap(0.5),
        p99_before=before.gap(0.99),
        p99=flows.gap(0.99),
        rate_before=before.rate,
        rate=flows.rate,
        faults=[one["reason"] for one in moves if one["state"] != "done"],
    )
