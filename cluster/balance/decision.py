"""Whether a better placement is worth a move, and when. Pure: times are handed in, in seconds of one clock."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cluster.balance.config import BalanceConfig
from cluster.balance.loads import TimedLoad, merged, too_few, within
from cluster.balance.moves import Moves, moves
from cluster.balance.planning import plan_placement
from cluster.balance.prediction import predicted_gain
from cluster.balance.supply import Supply
from cluster.balance.thrash import Restraint, least_gain_for
from experts.demand import Demand
from experts.placement import Placement

Planner = Callable[[Demand, Supply, Placement], Placement]
# Heat must have lasted: each half of the window needs its part of what is enough, with a margin for uneven halves.
HALF = 0.4


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known at a look.

    `layers` are the model's numbers of its MoE layers. `absent` are shards that are needed and cannot load now, `unfit`
    those that must not be given more: each with why. `forced` says why a new plan is needed whatever it gains: shards
    have come, or are to go.
    """

    now: float
    loads: Sequence[TimedLoad]
    current: Placement
    supply: Supply
    layers: tuple[int, ...]
    absent: Mapping[int, str] = field(default_factory=dict)
    unfit: Mapping[int, str] = field(default_factory=dict)
    forced: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look has found. `placement` is None where none better was found or too little is known.

    `move`: it is to be moved to now. `gain` is what it promises over the window, `work` what it takes.
    """

    move: bool
    reason: str
    placement: Placement | None = None
    gain: float = 0.0
    work: Moves | None = None


class Balancer:
    """Decides, look by look; remembers what it promised and did."""

    def __init__(self, config: BalanceConfig, plan: Planner = plan_placement) -> None:
        self._config = config
        self._plan = plan
        self._promising = 0
        self.restraint = Restraint(config.cooldown_seconds)

    def look(self, scene: Scene) -> Verdict:
        """Decide by what is known now. Moves only where that was promised in enough looks in a row."""
        if scene.absent:
            self._promising = 0
            return Verdict(False, f"waits for {_named(scene.absent)}")
        if scene.forced:
            return self._forced(scene)
        verdict = self.best(scene)
        if verdict.placement is None:
            self._promising = 0
            return verdict
        refusal = self._doubt(scene, verdict)
        self._promising = 0 if refusal else self._promising + 1
        refusal = refusal or self._wait(scene)
        return Verdict(not refusal, refusal or verdict.reason, verdict.placement, verdict.gain, verdict.work)

    def best(self, scene: Scene) -> Verdict:
        """The best placement for what was routed in the window, whatever a move would cost; moves nothing."""
        demand = merged(self._window(scene))
        if few := too_few(demand):
            return Verdict(False, few)
        assert demand is not None
        planned = self._plan(demand, scene.supply, scene.current)
        work = moves(scene.current, planned, demand.layers, scene.supply.expert_bytes)
        if planned is scene.current or not work.added + work.dropped:
            return Verdict(False, "the placement is good enough: no plan is better")
        gain = predicted_gain(demand, scene.current, planned, scene.supply.costs)
        return Verdict(False, f"promises {gain:.1%}", planned, gain, work)

    def began(self, now: float, before: Placement, after: Placement, layers: Sequence[int]) -> None:
        """A move has begun: looks start anew."""
        self._promising = 0
        self.restraint.began(now, before, after, layers)

    def _window(self, scene: Scene, begin: float = 1.0, end: float = 0.0) -> list[TimedLoad]:
        """The reports of the current placement from `begin` to `end` windows ago."""
        seconds = self._config.window_seconds
        return within(scene.loads, scene.now - begin * seconds, scene.now - end * seconds, scene.current.epoch)

    def _doubt(self, scene: Scene, verdict: Verdict) -> str:
        """Why what the verdict promises is not worth it, or would not last; nothing if it is and does."""
        assert verdict.placement is not None and verdict.work is not None
        if targets := _unfit_targets(verdict.work, scene.unfit):
            return f"would load onto {targets}"
        least = least_gain_for(verdict.work, self._config)
        least *= self.restraint.factor(scene.now, scene.current, verdict.placement, verdict.work.layers)
        if verdict.gain < least:
            return f"promises {verdict.gain:.1%}, a move needs {least:.1%}"
        for begin, end in ((1.0, 0.5), (0.5, 0.0)):
            half = merged(self._window(scene, begin, end))
            if few := too_few(half, HALF):
                return f"half of the window: {few}"
            assert half is not None
            gain = predicted_gain(half, scene.current, verdict.placement, scene.supply.costs)
            if gain < least:
                return f"promises {verdict.gain:.1%}, but {gain:.1%} in half of the window: heat that passes"
        return ""

    def _wait(self, scene: Scene) -> str:
        if self._promising < self._config.rounds:
            return f"promised in {self._promising} of {self._config.rounds} looks"
        if scene.pinned:
            return "pinned: only measures"
        if not self._config.automatic:
            return "not automatic: only measures"
        if (left := self.restraint.until - scene.now) > 0:
            return f"cools down for {left:.0f} s more"
        return ""

    def _forced(self, scene: Scene) -> Verdict:
        """Plan for the shards that there are to be; for even traffic where little is known."""
        seconds = self._config.window_seconds
        demand = merged(within(scene.loads, scene.now - seconds, scene.now))
        if demand is None:
            even_LE = np.ones((len(scene.layers), scene.current.experts), np.int64)
            demand = Demand(scene.layers, even_LE, seconds)
        planned = self._plan(demand, scene.supply, scene.current)
        work = moves(scene.current, planned, demand.layers, scene.supply.expert_bytes)
        if not work.added + work.dropped:
            return Verdict(False, f"{scene.forced}, but no plan is better")
        if targets := _unfit_targets(work, scene.unfit):
            return Verdict(False, f"{scene.forced}, but it would load onto {targets}")
        gain = predicted_gain(demand, scene.current, planned, scene.supply.costs)
        return Verdict(True, scene.forced, planned, gain, work)


def _unfit_targets(work: Moves, unfit: Mapping[int, str]) -> str:
    added_S = work.added_LS.sum(axis=0)
    return _named({shard: why for shard, why in unfit.items() if added_S[shard]})


def _named(shards: Mapping[int, str]) -> str:
    return ", ".join(f"shard {shard}, which is {why}" for shard, why in sorted(shards.items()))
