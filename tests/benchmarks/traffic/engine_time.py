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
    """Adds up the processor time of this thread inside torch's functions, operators and methods included."""

    def __init__(self) -> None:
        super().__init__()
        self.inside_ns = self.calls = 0

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


def reading_ns(calls: int = CALIBRATED_CALLS) -> float:
    """What the clock counts for a call that does nothing: mostly reading the time."""
    x, clock = torch.zeros(1), OperationClock()
    with clock:
        for _ in range(calls):
            x.dim()
    return clock.inside_ns / calls


@dataclass(frozen=True)
class StepTime:
    """Of one step: its seconds, the thread's processor seconds, those inside torch's functions."""

    wall: float
    processor: float
    inside: float
    calls: int


def plain(step: Callable[[], object]) -> StepTime:
    """Measure a step that no clock slows down."""
    begun, processor = time.perf_counter(), time.thread_time()
    step()
    return StepTime(time.perf_counter() - begun, time.thread_time() - processor, 0.0, 0)


def clocked(step: Callable[[], object], reading: float) -> StepTime:
    """Measure a step and what of it is torch's; `reading` nanoseconds of each call are the clock's own."""
    clock = OperationClock()
    begun, processor = time.perf_counter(), time.thread_time()
    with clock:
        step()
    inside = max(0.0, clock.inside_ns - clock.calls * reading) / 1e9
    return StepTime(time.perf_counter() - begun, time.thread_time() - processor, inside, clock.calls)


def own_share(without: Sequence[StepTime], clocked: Sequence[StepTime]) -> float:
    """The share of a step that is the thread's own: waiting takes no processor time, and torch's is taken off."""
    own = median(one.processor for one in without) - median(one.inside for one in clocked)
    return own / median(one.wall for one in without)


def engine(plan: Plan) -> list[Figure]:
    """Decode steps of many streams over two shard processes."""
    reading, shares, calls = reading_ns(), list[float](), 0
    with ShardProcesses(plan.large) as shards:
        transport = connected(shards.endpoints(), shards.credentials)
        with SteppedEngine(plan.large, transport, shards.shards, kv_cache_tokens=STREAMS * 1024) as side:
            steps = WARM_STEPS + 2 * STEPS * plan.rounds + STREAMS
            side.until_first_tokens([side.submit(prompt(PROMPT, "engine", n), steps) for n in range(STREAMS)])
            for _ in range(WARM_STEPS):
                side.step()
            for _ in range(plan.rounds):
                pairs = [(plain(side.step), clocked(side.step, reading)) for _ in range(STEPS)]
                shares.append(own_share(*zip(*pairs, strict=True)))
                calls = pairs[-1][1].calls
    what = f"engine thread's own time / step, {STREAMS} streams"
    return [Figure("engine", what, tuple(shares), 0.05, note=f"{calls} calls into torch a step")]
