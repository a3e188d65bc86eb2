"""What a plan promises for a span of time, and whether that would last."""

from collections.abc import Callable
from dataclasses import dataclass

from cluster.balance.judging.loads import TimedLoad, merged, too_few, within
from cluster.balance.moves import Moves, moves
from cluster.balance.prediction import predicted_gain
from cluster.balance.supply import Supply
from experts.demand import Demand
from experts.placement import Placement

Planner = Callable[[Demand, Supply, Placement], Placement]
# Each half of a span needs its part of what is enough, with a margin for uneven halves.
HALF = 0.4


@dataclass(frozen=True, slots=True)
class Promise:
    """A plan for what was routed, the part of the slowest shard's time that it saves there, and what it takes."""

    placement: Placement
    gain: float
    work: Moves


@dataclass(frozen=True, slots=True)
class Span:
    """What was routed from `begin` to `end`, as one and by halves."""

    loads: list[TimedLoad]
    begin: float
    end: float

    @property
    def demand(self) -> Demand | None:
        """All of it."""
        return merged(within(self.loads, self.begin, self.end))

    @property
    def halves(self) -> tuple[Demand | None, Demand | None]:
        """The older and the newer half."""
        middle = (self.begin + self.end) / 2
        return merged(within(self.loads, self.begin, middle)), merged(within(self.loads, middle, self.end))


def promise_of(demand: Demand, supply: Supply, current: Placement, plan: Planner) -> Promise | None:
    """The best plan for a demand; None if the current placement is good enough."""
    planned = plan(demand, supply, current)
    work = moves(current, planned, demand.layers, supply.expert_bytes)
    if planned is current or not work.added + work.dropped:
        return None
    return Promise(planned, predicted_gain(demand, current, planned, supply.costs), work)


def passing(span: Span, promise: Promise, least: float, supply: Supply, current: Placement, plan: Planner) -> str:
    """Why a promise of at least `least` would not last; nothing if it does.

    It must hold in each half of the time. And what is planned for either half alone must save as much in the other,
    which it has not seen (two-fold cross-validation): what suits two unlike halves, both known, need not suit a third.
    """
    older, newer = span.halves
    for half in (older, newer):
        if few := too_few(half, HALF):
            return f"half of the time: {few}"
        assert half is not None
        if (gain := predicted_gain(half, current, promise.placement, supply.costs)) < least:
            return f"promises {promise.gain:.1%}, but {gain:.1%} in half of the time: heat that passes"
    assert older is not None
    assert newer is not None
    for seen, unseen in ((older, newer), (newer, older)):
        if (gain := predicted_gain(unseen, current, plan(seen, supply, current), supply.costs)) < least:
            return f"promises {promise.gain:.1%}, but {gain:.1%} planned for one half in the other: heat that passes"
    return ""
