"""Whether a better placement is worth a move, and when. Pure: times are handed in, in seconds of one clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cluster.balance.config import BalanceConfig
from cluster.balance.judging.loads import TimedLoad, merged, too_few, within
from cluster.balance.judging.promise import Planner, Promise, Span, passing, promise_of
from cluster.balance.judging.thrash import Restraint, least_gain_for
from cluster.balance.moves import Moves
from cluster.balance.planning import plan_placement
from cluster.balance.resizing import resized
from cluster.balance.supply import Supply
from experts.demand import Demand
from experts.placement import Placement

# Windows that are looked at together where one alone shows heat that passes: it may come back.
LONG = 5
ENOUGH = "the placement is good enough: no plan is better"


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
        if scene.forced and (forced := self._forced(scene)) is not None:
            return forced
        verdict = self._judged(scene)
        self._promising = self._promising + 1 if verdict.move else 0
        if verdict.move and (refusal := self._wait(scene)):
            return replace(verdict, move=False, reason=refusal)
        return verdict

    def best(self, scene: Scene) -> Verdict:
        """The best placement for what was routed in the window, whatever a move would cost; moves nothing."""
        demand = self._spans(scene)[0].demand
        if few := too_few(demand):
            return Verdict(False, few)
        assert demand is not None
        promise = promise_of(demand, scene.supply, scene.current, self._plan)
        if promise is None:
            return Verdict(False, ENOUGH)
        return Verdict(False, f"promises {promise.gain:.1%}", promise.placement, promise.gain, promise.work)

    def began(self, now: float, before: Placement, after: Placement, layers: Sequence[int]) -> None:
        """A move has begun: looks start anew."""
        self._promising = 0
        self.restraint.began(now, before, after, layers)

    def _spans(self, scene: Scene) -> tuple[Span, Span]:
        """The window, of the current placement's reports; and a longer one, for heat that goes and comes back.

        What was routed does not depend on where experts were, so the longer one may reach behind the last move.
        """
        seconds, now = self._config.window_seconds, scene.now
        short = [one for one in scene.loads if one.load.epoch == scene.current.epoch]
        return Span(short, now - seconds, now), Span(list(scene.loads), now - LONG * seconds, now)

    def _judged(self, scene: Scene) -> Verdict:
        """The plan for the window if it is worth it and would last, else that for the longer one; else why neither."""
        first: Verdict | None = None
        for span in self._spans(scene):
            if few := too_few(span.demand):
                verdict = Verdict(False, few)
            else:
                assert span.demand is not None
                promise = promise_of(span.demand, scene.supply, scene.current, self._plan)
                verdict = self._weighed(scene, span, promise) if promise else Verdict(False, ENOUGH)
            if verdict.move:
                return verdict
            first = first or verdict
        assert first is not None
        return first

    def _weighed(self, scene: Scene, span: Span, promise: Promise) -> Verdict:
        reason = self._doubt(scene, span, promise)
        said = reason or f"promises {promise.gain:.1%}"
        return Verdict(not reason, said, promise.placement, promise.gain, promise.work)

    def _doubt(self, scene: Scene, span: Span, promise: Promise) -> str:
        """Why a promise is not worth a move, or would not last; nothing if it is and does."""
        if targets := _unfit_targets(promise.work, scene.unfit):
            return f"would load onto {targets}"
        least = least_gain_for(promise.work, self._config)
        least *= self.restraint.factor(scene.now, scene.current, promise.placement, promise.work.layers)
        if promise.gain < least:
            return f"promises {promise.gain:.1%}, a move needs {least:.1%}"
        return passing(span, promise, least, scene.supply, scene.current, self._plan)

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

    def _forced(self, scene: Scene) -> Verdict | None:
        """Plan for the shards that there are to be, by even traffic where nothing is known; None if nothing changes."""
        seconds = self._config.window_seconds
        demand = merged(within(scene.loads, scene.now - seconds, scene.now))
        if demand is None:
            even_LE = np.ones((len(scene.layers), scene.current.experts), np.int64)
            demand = Demand(scene.layers, even_LE, seconds)
        # As few experts as possible: what else would pay is found once the shards are what is wanted.
        promise = promise_of(demand, scene.supply, scene.current, resized)
        if promise is None:
            return None
        if targets := _unfit_targets(promise.work, scene.unfit):
            return Verdict(False, f"{scene.forced}, but it would load onto {targets}")
        return Verdict(True, scene.forced, promise.placement, promise.gain, promise.work)


def _unfit_targets(work: Moves, unfit: Mapping[int, str]) -> str:
    added_S = work.added_LS.sum(axis=0)
    return _named({shard: why for shard, why in unfit.items() if added_S[shard]})


def _named(shards: Mapping[int, str]) -> str:
    return ", ".join(f"shard {shard}, which is {why}" for shard, why in sorted(shards.items()))
