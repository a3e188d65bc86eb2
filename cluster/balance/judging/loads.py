"""What routers reported over some time, as one demand. L MoE layers, E experts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from experts.demand import Demand, RoutedBatch, RoutedLoad

# Replaying a step takes tens of microseconds a layer; more steps say little more.
MOST_BATCHES = 64
# As for experts that count as dead: with fewer, which ones are hot is chance.
TOKENS_PER_EXPERT = 32


@dataclass(frozen=True, slots=True)
class TimedLoad:
    """A router's report, and when it came, in seconds."""

    at: float
    load: RoutedLoad


def within(loads: Iterable[TimedLoad], since: float, until: float, epoch: int | None = None) -> list[TimedLoad]:
    """The reports that came after `since` and not after `until`; those of one epoch if it is given."""
    return [one for one in loads if since < one.at <= until and epoch in (None, one.load.epoch)]


def merged(loads: Sequence[TimedLoad]) -> Demand | None:
    """The demand of all reports together, over the time that the router which reported longest has counted.

    None if there are none. Reports of another set of layers than the latest are left out. Of the sampled steps at
    most `MOST_BATCHES` are kept, evenly spaced.
    """
    if not loads:
        return None
    layers = loads[-1].load.demand.layers
    alike = [one.load for one in loads if one.load.demand.layers == layers]
    seconds: dict[str, float] = {}
    for load in alike:
        seconds[load.router] = seconds.get(load.router, 0.0) + load.demand.seconds
    tokens_LE = np.sum([load.demand.tokens_LE for load in alike], axis=0)
    return Demand(
        layers, tokens_LE, max(seconds.values()), _spaced([one for load in alike for one in load.demand.batches])
    )


def too_few(demand: Demand | None, part: float = 1.0) -> str:
    """Why a demand says too little, or nothing: enough is `TOKENS_PER_EXPERT` tokens for each expert of a layer.

    Counted as (token, expert) pairs, in the mean of the layers; `part` of it is enough of a part of the time.
    """
    if demand is None or not demand.tokens_LE.any():
        return "nothing was routed"
    layers, experts = demand.tokens_LE.shape
    needed, there = part * TOKENS_PER_EXPERT * experts, int(demand.tokens_LE.sum()) / max(1, layers)
    if there < needed:
        return f"too little was routed: {there:.0f} tokens' experts a layer, {needed:.0f} say enough"
    return "" if demand.batches else "no whole step was sampled"


def _spaced(batches: list[RoutedBatch]) -> tuple[RoutedBatch, ...]:
    places = np.linspace(0, len(batches) - 1, min(len(batches), MOST_BATCHES)).round().astype(int)
    return tuple(batches[place] for place in places)
