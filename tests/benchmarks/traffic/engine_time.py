"""Row `engine`: what the engine's thread does beside computing and waiting."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tests.benchmarks.traffic.figure import Figure
from tests.benchmarks.traffic.plan import Plan, prompt
from tests.benchmarks.traffic.shard_processes import ShardProcesses, connected
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

STREAMS, PROMPT, WARM_STEPS = 64, 64, 4
STEPS = 10  # measured and not measured, in turns, per round
CALIBRATED_CALLS = 20_000


class OperationClock(TorchFunctionMode):
    """Adds up the processor time of this thread inside torch's functions, operators and methods included.

    `cost_ns` is what counting one call takes outside of what is counted.
    """

    def __init__(self, cost_ns: float = 0.0) -> None:
        super().__init__()
        self.inside_ns = self.calls = 0
        self.cost_ns = cost_ns

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        begun = time.thread_time_ns()
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.inside_ns += time.thread_time_ns() - begun
            self.calls += 1


def counting_cost_ns(calls: int = CALIBRATED_CALLS) -> float:
    """What counting a call takes: that of a function that does nothing."""
    x = torch.zeros(1)
    clock = OperationClock()
    begun = time.thread_time_ns()
    with clock:
        for _ in range(calls):
            x.dim()
    return max(0.0, (time.thread_time_ns() - begun - clock.inside_ns) / calls)


@dataclass(frozen=True)
class OwnTime:
    """Of one step, in seconds: the thread's processor time outside torch, and how many calls were counted."""

    seconds: float
    calls: int


def own_time(step: Callable[[], object], cost_ns: float) -> OwnTime:
    """Measure one step: waiting takes no processor time, so what is left besides torch is the thread's own."""
    clock = OperationClock(cost_ns)
    begun = time.thread_time_ns()
    with clock:
        step()
    whole = time.thread_time_ns() - begun
    return OwnTime(max(0.0, whole - clock.inside_ns - clock.calls * clock.cost_ns) / 1e9, clock.calls)


def engine(plan: Plan) -> list[Figure]:
    """Decode steps of many streams over two shard processes."""
    cost_ns, shares, calls = counting_cost_ns(), list[float](), 0
    with ShardProcesses(plan.large) as shards:
        transport = connected(shards.endpoints(), shards.credentials)
        with SteppedEngine(plan.large, transport, shards.shards, kv_cache_tokens=STREAMS * 1024) as side:
            steps = WARM_STEPS + 2 * STEPS * (1 + plan.rounds)
            keys = [side.submit(prompt(PROMPT, "engine", n), steps + STREAMS) for n in range(STREAMS)]
            side.until_first_tokens(keys)
            for _ in range(WARM_STEPS):
                side.step()
            for _ in range(plan.rounds):
                share, calls = _round(side, cost_ns)
                shares.append(share)
    what = f"engine thread's own time / step, {STREAMS} streams"
    note = f"{calls} calls into torch a step; counting one takes {cost_ns / 1e3:.1f} us, which is taken off"
    return [Figure("engine", what, tuple(shares), 0.05, note=note)]


def _round(side: SteppedEngine, cost_ns: float) -> tuple[float, int]:
    """Own time of the steps that are measured over the length of those between, which are not slowed down."""
    own, whole = [], []
    for _ in range(STEPS):
        begun = time.perf_counter()
        side.step()
        whole.append(time.perf_counter() - begun)
        own.append(own_time(side.step, cost_ns))
    return median(one.seconds for one in own) / median(whole), own[-1].calls
