"""What operators ask of the balancer: a rebalance, a number of shards, advice."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import ray

from cluster.balance.advice import TooLittleError, advise
from cluster.balance.judging.decision import Scene, Verdict
from cluster.balance.judging.loads import merged, within
from cluster.balance.judging.recording import Recording, write_recording
from cluster.balance.moves import moves
from cluster.balance.placement_file import PlacementFileError, read_placement, write_placement
from cluster.balance.prediction import predicted_gain
from cluster.processes.balancing.loop import BalanceLoop
from cluster.processes.balancing.outlook import NoMapYetError
from cluster.processes.maps.migration import MigrationRefusedError
from cluster.processes.ray_calls import RayTimeoutError
from experts.placement import Placement, placement_of_layers
from router_service.protocol.balance import BalanceRefusal, PlanReport, RebalanceOutcome

T = TypeVar("T")
# What was routed is cut into so many windows for advice, which compares them.
WINDOWS = 4


class BalanceActions:
    """Acts through the loop, between two of its ticks. What cannot be done is answered with a `BalanceRefusal`."""

    def __init__(self, loop: BalanceLoop) -> None:
        self._loop = loop

    def rebalance(self, dry_run: bool, placement: str, pin: bool | None) -> RebalanceOutcome | BalanceRefusal:
        """Move to `placement`, or to the best one found for what was routed lately; whatever is promised, now.

        With `pin` the placement stays from then on, or no longer. `pin` true without a placement only pins.
        """
        return self._bounded(lambda: self._rebalance(dry_run, placement, pin))

    def scale(self, shards: int) -> tuple[int, int] | BalanceRefusal:
        """Set how many shards are wanted; return how many were, and are."""
        return self._bounded(lambda: self._scale(shards))

    def advise(self) -> str | BalanceRefusal:
        """Return the advice for what was routed lately, as JSON."""
        return self._bounded(self._advise)

    def record(self, seconds: float) -> str | BalanceRefusal:
        """Return what was routed in so many seconds before now, as a recording's JSON."""
        return self._bounded(lambda: write_recording(self._recorded(seconds)))

    def _bounded(self, work: Callable[[], T | BalanceRefusal]) -> T | BalanceRefusal:
        with self._loop.lock:
            try:
                return work()
            except (MigrationRefusedError, NoMapYetError, TooLittleError) as error:
                return BalanceRefusal("precondition", str(error))
            except PlacementFileError as error:
                return BalanceRefusal("invalid", f"the placement cannot be used: {error}")
            except (RayTimeoutError, ray.exceptions.RayError) as error:
                return BalanceRefusal("unavailable", f"the registry does not answer, try again: {error}")

    def _rebalance(self, dry_run: bool, text: str, pin: bool | None) -> RebalanceOutcome | BalanceRefusal:
        loop = self._loop
        now = loop.refresh()
        if pin and not text and not dry_run:
            return self._pinned("pinned: the balancer leaves the placement as it is")
        if loop.course is not None and loop.course.moving and not dry_run:
            epoch = loop.course.plans[-1].epoch
            return BalanceRefusal("precondition", f"the move to epoch {epoch} is on: wait for its end, see status")
        if loop.pinned and not text and pin is None and not dry_run:
            return BalanceRefusal(
                "precondition", "the placement is pinned: unpin it first, or give the placement to move to"
            )
        scene = loop.outlook.scene(now, False)
        verdict = self._given(scene, text) if text else loop.balancer.best(scene)
        if pin is not None and not dry_run:
            loop.pinned = pin
        return self._planned(verdict, scene) if dry_run else self._moving(verdict, now)

    def _planned(self, verdict: Verdict, scene: Scene) -> RebalanceOutcome:
        if verdict.placement is None:
            return RebalanceOutcome("kept", verdict.reason, placement=self._saved(scene.current, ""))
        assert verdict.work is not None
        plan = PlanReport(
            epoch=0,
            state="planned",
            reason=verdict.reason,
            copies_added=verdict.work.added,
            copies_dropped=verdict.work.dropped,
            bytes=verdict.work.bytes,
            predicted_gain=verdict.gain,
        )
        return RebalanceOutcome("planned", verdict.reason, plan, self._saved(verdict.placement, verdict.reason))

    def _moving(self, verdict: Verdict, now: float) -> RebalanceOutcome:
        if verdict.placement is None:
            self._loop.publish("kept", f"asked by an operator: {verdict.reason}")
            return RebalanceOutcome("kept", verdict.reason, placement=self._saved(self._loop.outlook.current, ""))
        plan = self._loop.move(verdict, now)
        self._loop.publish("moved", f"asked by an operator: {verdict.reason}")
        return RebalanceOutcome("moving", verdict.reason, plan, self._saved(verdict.placement, verdict.reason))

    def _pinned(self, reason: str) -> RebalanceOutcome:
        self._loop.pinned = True
        self._loop.publish("kept", reason)
        return RebalanceOutcome("kept", reason, placement=self._saved(self._loop.outlook.current, ""))

    def _given(self, scene: Scene, text: str) -> Verdict:
        """What moving to a placement that was given takes and promises, as far as anything was routed."""
        saved, facts = read_placement(text), self._loop.outlook.facts
        saved.check(facts.experts, facts.layers, min(self._loop.outlook.wanted, scene.current.shards))
        copies = min(saved.placement.layer(layer).copies for layer in facts.layers)
        if copies < scene.supply.copies:
            raise PlacementFileError(
                f"holders has {copies} copies of an expert, the cluster keeps {scene.supply.copies} of each: add copies"
            )
        placement = placement_of_layers(scene.current.shards, saved.placement.special, scene.current.epoch)
        work = moves(scene.current, placement, facts.layers, facts.expert_bytes)
        if not work.added + work.dropped:
            return Verdict(False, "it is the present placement")
        demand = merged(within(scene.loads, scene.now - self._loop.window_s, scene.now))
        gain = predicted_gain(demand, scene.current, placement, scene.supply.costs) if demand else 0.0
        return Verdict(True, saved.reason or "a placement that was given", placement, gain, work)

    def _scale(self, shards: int) -> tuple[int, int] | BalanceRefusal:
        loop = self._loop
        loop.refresh()
        before = loop.outlook.wanted
        if refusal := loop.limits.refusal(shards):
            return BalanceRefusal("invalid", refusal)
        loop.want(shards)
        return before, shards

    def _advise(self) -> str:
        recorded = self._recorded(math.inf)
        return advise(recorded.windows, recorded.supply, recorded.current).to_json()

    def _recorded(self, seconds: float) -> Recording:
        loop = self._loop
        now = loop.refresh()
        loads = within(loop.outlook.loads, now - seconds, now)
        begin = min((one.at for one in loads), default=now)
        bounds = [begin - 1e-6 + (now - begin + 1e-6) * place / WINDOWS for place in range(WINDOWS + 1)]
        windows = [merged(within(loads, since, until)) for since, until in pairwise(bounds)]
        kept, outlook = tuple(one for one in windows if one is not None), loop.outlook
        return Recording(kept, outlook.supply(), outlook.current, outlook.facts.layers)

    def _saved(self, placement: Placement, reason: str) -> str:
        made_from = {"epoch": self._loop.outlook.current.epoch}
        return write_placement(placement, self._loop.outlook.facts.layers, reason, made_from)
