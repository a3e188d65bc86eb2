"""A real cluster under text of some domains: what its steps cost, and what its balancer does."""

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import grpc.aio
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from cluster.balance.judging.recording import Recording, read_recording
from cluster.balance.placement_file import write_placement
from experts.placement import LayerPlacement, Placement
from router_service.client.client import Client
from router_service.protocol.cluster_pb2 import BalancePlan
from router_service.text.tokenizer_files import load_tokenizer
from tests.benchmarks.balance.baselines import eplb
from tests.benchmarks.balance.record import BUNDLED, samples

PROMPT_TOKENS, NEW_TOKENS, TEMPERATURE = 96, 64, 0.7
POLL_SECONDS = 0.25
MOVE_SECONDS = 180.0
STEPS = ", in steps"  # how the reason ends of a step that others follow
# So that a cluster that has ended is not asked without end, and one that hangs is seen.
PAUSE_SECONDS, REQUEST_SECONDS = 0.5, 120.0


@dataclass(frozen=True)
class Costs:
    """Of a time: tokens generated a second, and of a layer's call the microseconds that the slowest shard is waited for
    beside the mean one, and that the engine waits with nothing else to do.
    """

    tokens_per_second: float
    straggler_us: float
    exposed_us: float


@dataclass
class Traffic:
    """What is asked: `domain` may change at any time, and is that of the next requests. `tokens` are those answered."""

    target: str
    domain: str
    texts: dict[str, list[int]]
    tokens: int = 0
    failed: list[str] = field(default_factory=list)
    numbers: "count[int]" = field(default_factory=count)

    async def stream(self) -> None:
        """Ask again and again: each time for what follows another place of the domain's text."""
        async with Client(self.target) as client:
            while True:
                await self._one(client, next(self.numbers))

    async def _one(self, client: Client, number: int) -> None:
        text = self.texts[self.domain]
        start = number * 37 % (len(text) - PROMPT_TOKENS)
        asked = {
            "max_tokens": NEW_TOKENS,
            "temperature": TEMPERATURE,
            "seed": number,
            "ignore_eos": True,
            "timeout": REQUEST_SECONDS,
        }
        try:
            async for response in client.generate(
                tokens=text[start : start + PROMPT_TOKENS],
                **asked,  # type: ignore[arg-type]
            ):
                self.tokens += len(response.token_ids)
        except grpc.aio.AioRpcError as error:
            self.failed.append(f"{error.code().name}: {error.details()}")
            await asyncio.sleep(PAUSE_SECONDS)


@asynccontextmanager
async def traffic(
    target: str, streams: int, domain: str, texts: dict[str, list[int]] | None = None
) -> AsyncIterator[Traffic]:
    """Keep so many streams open within the block; of the bundled model's domains, unless there are other `texts`."""
    if texts is None:
        tokenizer = load_tokenizer(BUNDLED)
        texts = {name.lower(): tokenizer.encode(text, add_special_tokens=False) for name, text in samples().items()}
    made = Traffic(target, domain, texts)
    workers = [asyncio.create_task(made.stream()) for _ in range(streams)]
    try:
        yield made
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def measured(made: Traffic, metrics: str, seconds: float) -> Costs:
    """What steps cost in the next seconds."""
    before, tokens, begun = await counters(metrics), made.tokens, time.monotonic()
    await asyncio.sleep(seconds)
    after, took = await counters(metrics), time.monotonic() - begun
    calls = max(1.0, after["calls"] - before["calls"])
    straggler, exposed = (1e6 * (after[name] - before[name]) / calls for name in ("straggler", "exposed"))
    return Costs((made.tokens - tokens) / took, straggler, exposed)


async def counters(metrics: str) -> dict[str, float]:
    """The counters of layer calls, and what they waited for."""
    names = {
        "expertmesh_shard_load_imbalance_count": "calls",
        "expertmesh_straggler_wait_seconds_total": "straggler",
        "expertmesh_alltoall_exposed_seconds_total": "exposed",
    }
    text = await asyncio.to_thread(_page, metrics)
    found = dict.fromkeys(names.values(), 0.0)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in names:
                found[names[sample.name]] += sample.value
    return found


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as page:
        return str(page.read().decode())


async def routed(client: Client, seconds: float) -> Recording:
    """What was routed lately."""
    return read_recording(await client.record_routing(seconds))


def eplb_placement(recording: Recording, extra: int) -> str:
    """EPLB's placement for what was recorded, with `extra` copies a shard and layer, as a placement file's text."""
    tokens_LE = np.sum([window.tokens_LE for window in recording.windows], axis=0)
    shards, experts = int(recording.supply.usable_S.sum()), tokens_LE.shape[1]
    each = -(-experts // shards) + extra
    special = {
        layer: _layer(eplb(tokens_LE[place].astype(float), shards * each, shards), experts)
        for place, layer in enumerate(recording.layers)
    }
    placement = Placement(recording.current.shards, recording.current.everywhere, special)
    return write_placement(placement, recording.layers, "EPLB")


def _layer(held: list[list[int]], experts: int) -> LayerPlacement:
    holders = [tuple(shard for shard, one in enumerate(held) if expert in one) for expert in range(experts)]
    return LayerPlacement(tuple(holders))


async def moved(client: Client, placement: str = "") -> BalancePlan | None:
    """Move to a placement, or to the planner's; return the plan when it is over, None if the present one is kept.

    Of a plan that is moved to in steps the last one is returned: it promises what all of them do.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    reply = await client.rebalance(placement=placement)
    if reply.result == "kept":
        return None
    plan = await settled(client, reply.plan.epoch)
    while plan.reason.endswith(STEPS):
        plan = await settled(client, plan.epoch + 1)
    return plan


async def settled(client: Client, epoch: int, measured_too: bool = False, seconds: float = MOVE_SECONDS) -> BalancePlan:
    """The plan of an epoch once it is done, and with `measured_too` once what it gave is known. Raises as `moved`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for plan in (await client.cluster()).balance.plans:
            if plan.epoch == epoch and plan.state == "failed":
                raise RuntimeError(f"the move to epoch {epoch} failed: {plan.reason}")
            if plan.epoch == epoch and plan.state == "done" and (plan.HasField("measured_gain") or not measured_too):
                return plan
        await asyncio.sleep(POLL_SECONDS)
    raise RuntimeError(f"the move to epoch {epoch} is not over after {seconds:.0f} s")
