"""Rows `gap` and `long`: what a long prompt does to streams that decode."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from router_service.engine.request import Event
from tests.benchmarks.harness.sides import Tokens
from tests.benchmarks.traffic.figure import Figure, ratios
from tests.benchmarks.traffic.plan import Plan, prompt
from tests.benchmarks.traffic.stepped_engine import SteppedEngine

STREAMS, BEGINNING, NEW_TOKENS = 4, 32, 900
WARM_STEPS, CALM_STEPS = 8, 40


@dataclass
class GapMeter:
    """The time between two tokens of each stream; `gaps` has those of all."""

    gaps: list[float] = field(default_factory=list)
    _last: dict[int, float] = field(default_factory=dict)

    def note(self, events: Iterable[Event], now: float) -> None:
        """Take a step's events at second `now`."""
        for event in events:
            if event.key in self._last:
                self.gaps.append(now - self._last[event.key])
            self._last[event.key] = now

    def taken(self) -> list[float]:
        """Return the gaps so far and begin anew; the streams go on."""
        gaps, self.gaps = self.gaps, []
        return gaps


@dataclass(frozen=True)
class Arrival:
    """Gaps without and while a prompt was read, and the seconds from its arrival to its first token."""

    calm: list[float]
    during: list[float]
    prompt_seconds: float

    @property
    def ratio(self) -> float:
        """The largest gap over the median of the undisturbed ones."""
        return max(self.during) / median(self.calm)


def arrival(side: SteppedEngine, tokens: Tokens, seed: object, calm_steps: int = CALM_STEPS) -> Arrival:
    """Decode `STREAMS` streams, first alone and then until the prompt `tokens` has its first token."""
    keys = [side.submit(prompt(BEGINNING, seed, n), NEW_TOKENS) for n in range(STREAMS)]
    side.until_first_tokens(keys)
    meter = GapMeter()
    for number in range(WARM_STEPS + calm_steps):
        if number == WARM_STEPS:
            meter.taken()
        meter.note(side.step(), time.perf_counter())
    calm, begun, key, events = meter.taken(), time.perf_counter(), side.submit(tokens, 2), list[Event]()
    while all(event.key != key for event in events):
        events = side.step()
        meter.note(events, time.perf_counter())
    seconds = time.perf_counter() - begun
    side.give_up()
    return Arrival(calm, meter.taken(), seconds)


def alone(side: SteppedEngine, tokens: Tokens) -> float:
    """Seconds of a prompt that nothing disturbs."""
    begun = time.perf_counter()
    key = side.submit(tokens, 1)
    side.until_first_tokens([key])
    return time.perf_counter() - begun


def gap(plan: Plan) -> list[Figure]:
    """A prompt of 1,000 tokens on the bundled model."""
    with SteppedEngine(plan.bundled, kv_cache_tokens=16384) as side:
        seen = [arrival(side, prompt(1000, "gap", n), n) for n in range(1 + plan.rounds)][1:]
    return [_largest("gap", 1000, seen)]


def long(plan: Plan) -> list[Figure]:
    """A prompt of 4,000 tokens on the Qwen3-like checkpoint; whole prefills alone take turns with it."""
    seen, whole = [], []
    with SteppedEngine(plan.large, kv_cache_tokens=16384) as side:
        for number in range(1 + plan.rounds):
            whole.append(alone(side, prompt(4000, "whole", number)))
            seen.append(arrival(side, prompt(4000, "long", number), number))
    slower = ratios([one.prompt_seconds for one in seen[1:]], whole[1:])
    return [_largest("long", 4000, seen[1:]), Figure("long", "its first token / that of a prompt alone", slower, 2.0)]


def _largest(row: str, tokens: int, seen: list[Arrival]) -> Figure:
    undisturbed = median(max(one.calm) / median(one.calm) for one in seen)
    what = f"largest gap of {STREAMS} streams while {tokens:,} tokens arrive / median gap"
    note = f"without a prompt the largest gap is {undisturbed:.2f} times the median"
    return Figure(row, what, tuple(one.ratio for one in seen), 3.0, note=note)
