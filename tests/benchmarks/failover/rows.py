"""The rows of the table: a cluster, streams, a strike, and what came of it."""

import asyncio
import random
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from router_service.client.client import Client
from tests.benchmarks.failover import strikes
from tests.benchmarks.failover.flows import Flows, flowing, prompts_of, references
from tests.e2e.server import Server, serving

PROMPTS = 16


@dataclass(frozen=True)
class Row:
    """A cluster of so many shards, copies and routers under `streams` streams, struck for `seconds`."""

    name: str
    strike: strikes.Strike
    shards: int = 4
    copies: int = 2
    routers: int = 1
    streams: int = 32
    seconds: float = 30.0
    new_tokens: int = 96


ROWS = (
    Row("a shard killed every 5 s", strikes.kill_shards, seconds=60.0),
    Row("a single-copy shard stopped for good", strikes.stop_shard_for_good, copies=1, streams=16),
    Row("a shard stopped for 10 s", strikes.stop_shard, seconds=20.0),
    Row("a router killed", strikes.kill_router, routers=2, streams=16),
    Row("the Front killed", strikes.kill_front, streams=16, seconds=20.0),
    Row("the registry killed", strikes.kill_registry, streams=16, seconds=15.0),
    Row("Serve's controller killed", strikes.kill_controller, streams=16, seconds=15.0),
    Row("every core loaded by others", strikes.load_cores, streams=16, seconds=60.0),
)


@dataclass(frozen=True)
class Figures:
    """What a row measured: before the strike and under it. Seconds and tokens a second."""

    name: str
    done: list[str]
    answers: int
    lost: list[str]
    differ: list[str]
    gap_before: float
    gap: float
    gap_p99: float
    rate_before: float
    rate: float
    asks: float
    duplicates: float


def measure(row: Row, checkpoint: Path | None, seed: int, calm_s: float) -> Figures:
    """Start the row's cluster, let streams flow, strike, and take it down."""
    arguments = [str(checkpoint)] if checkpoint else []
    arguments += ["--shards", str(row.shards), "--copies", str(row.copies), "--routers", str(row.routers)]
    arguments += ["--grpc-port", "0", "--metrics-port", "0", "--http-port", "0"]
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(*arguments, log=Path(folder) / "log") as server,
    ):
        return asyncio.run(_struck(server, row, seed, calm_s))


async def _struck(server: Server, row: Row, seed: int, calm_s: float) -> Figures:
    async with Client(server.target) as client:
        await client.wait_ready(60.0)
        model = await client.model()
        prompts = prompts_of(model.vocabulary, PROMPTS)
        expected = await references(client, prompts, row.new_tokens)
    async with flowing(server.target, row.streams, prompts, expected) as before:
        await asyncio.sleep(calm_s)
    async with flowing(server.target, row.streams, prompts, expected) as flows:
        await asyncio.sleep(1.0)  # all of them have begun
        counted = _asks(server)
        done = await row.strike(server, random.Random(seed), row.seconds)
        asks, duplicates = (after - at for after, at in zip(_asks(server), counted, strict=True))
    return _figures(row, done, before, flows, asks, duplicates)


def _figures(row: Row, done: list[str], before: Flows, flows: Flows, asks: float, duplicates: float) -> Figures:
    return Figures(
        name=row.name,
        done=done,
        answers=flows.answers,
        lost=before.lost + flows.lost,
        differ=before.differ + flows.differ,
        gap_before=before.gap(),
        gap=flows.gap(),
        gap_p99=flows.gap(0.99),
        rate_before=before.rate,
        rate=flows.rate,
        asks=asks,
        duplicates=duplicates,
    )


def _asks(server: Server) -> tuple[float, float]:
    """Calls sent by all routers so far, and those that were sent for rows that another shard was still to answer."""
    with urllib.request.urlopen(server.metrics, timeout=30) as response:
        families = text_string_to_metric_families(response.read().decode())
    totals = dict.fromkeys(("expertmesh_asks_total", "expertmesh_hedged_asks_total"), 0.0)
    for family in families:
        for sample in family.samples:
            if sample.name in totals:
                totals[sample.name] += sample.value
    asks, hedged = totals.values()
    return asks, hedged
