"""Row `merge`: what the experts' work costs if several routers share the shards."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.harness.exchange import PASSIVE
from tests.benchmarks.harness.worker import Worker
from tests.benchmarks.traffic.figure import Figure, ratios
from tests.benchmarks.traffic.plan import Plan, prompt
from tests.benchmarks.traffic.shard_processes import RouterSide, ShardProcesses, at_once

ROUTERS, STREAMS, PROMPT, STEPS = 4, 32, 64, 24
CONFIG = {"kv_cache_tokens": 16384, "threads": 1}


@dataclass(frozen=True)
class Work:
    """Seconds a token, summed over the shards: in computations, by their stamps; of their processes.

    `merged` is how many calls a computation answered.
    """

    compute: float
    processor: float
    merged: float


def work(shards: ShardProcesses, routers: Sequence[Worker], seed: object) -> Work:
    """Decode `STREAMS` streams, spread evenly over the routers."""
    each = STREAMS // len(routers)
    prompts = [[prompt(PROMPT, seed, r, n) for n in range(each)] for r in range(len(routers))]
    at_once(routers, "begin", [(own, STEPS) for own in prompts])
    before, computations = shards.processor_seconds(), shards.computations()
    done = at_once(routers, "decode", [()] * len(routers))
    processor = shards.processor_seconds() - before
    tokens, compute, calls = (sum(column) for column in zip(*done, strict=True))
    return Work(compute / tokens, processor / tokens, calls / (shards.computations() - computations))


def merge(plan: Plan) -> list[Figure]:
    """Four routers of 8 streams in turns with one of 32, over the same two shards."""
    with ExitStack() as stack:
        shards = stack.enter_context(ShardProcesses(plan.large))
        arguments = (plan.large, shards.endpoints(), shards.credentials, CONFIG)
        routers = [stack.enter_context(Worker(RouterSide, *arguments, environment=PASSIVE)) for _ in range(1 + ROUTERS)]
        one, many = routers[:1], routers[1:]
        pairs = [(work(shards, many, n), work(shards, one, n)) for n in range(1 + plan.rounds)][1:]
    several, single = zip(*pairs, strict=True)
    note = f"a computation answers {median(one.merged for one in several):.2f} calls of several routers"
    what = f"of {ROUTERS} routers with {STREAMS // ROUTERS} streams each / of one with {STREAMS}"
    return [
        Figure("merge", f"expert compute seconds a token {what}", _ratios(several, single, "compute"), 1.5, note=note),
        Figure("merge", f"shards' processor seconds a token {what}", _ratios(several, single, "processor"), 1.5),
    ]


def _ratios(several: Sequence[Work], single: Sequence[Work], name: str) -> tuple[float, ...]:
    return ratios([getattr(one, name) for one in several], [getattr(one, name) for one in single])
