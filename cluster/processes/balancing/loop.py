"""The balancer's loop: looks, moves experts where that pays, follows a move to its end, and reports all of it."""

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import ray
from msgspec.structs import replace

from cluster.balance.config import BalanceConfig
from cluster.balance.judging.course import Course, Move
from cluster.balance.judging.decision import Balancer, Verdict
from cluster.balance.judging.loads import TimedLoad, merged, within
from cluster.balance.judging.staging import staged
from cluster.balance.judging.stock import ModelFacts, held_by_shards
from cluster.balance.moves import moves
from cluster.balance.prediction import predicted_gain
from cluster.balance.scaling import Autoscaler, BusyMeter, Limits
from cluster.processes.balancing.outlook import Bounds, Desk, NoMapYetError, Outlook
from cluster.processes.maps.migration import MigrationRefusedError
from cluster.processes.ray_calls import RayTimeoutError
from experts.host.log import fields
from experts.placement import Placement
from router_service.protocol.balance import BalanceReport, PlanReport

log = logging.getLogger(__name__)

RESULTS = ("moved", "kept", "failed")


@dataclasses.dataclass(frozen=True, slots=True)
class _Staged:
    """The whole of a plan that is moved to in steps, and what there was, and was reported, before the first of them."""

    verdict: Verdict
    old: Placement
    before: Sequence[TimedLoad]


class BalanceLoop:
    """Decides and acts; `tick` is called about once a second, from one thread, other methods from any.

    A balancer that is started anew goes on from the last one's report: its plans, counts and cool-down. What the last
    plan gave stays unknown then.

    Args:
        desk: the registry.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        desk: Desk,
        config: BalanceConfig,
        facts: ModelFacts,
        bounds: Bounds,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._desk = desk
        self._config = config
        self._wall = wall
        # Operators' requests come on other threads than looks.
        self.lock = threading.RLock()
        self.outlook = Outlook(desk, config, facts, bounds)
        self.balancer = Balancer(config)
        self.limits = Limits(facts.experts, bounds.copies, bounds.each or facts.experts, bounds.most_shards)
        self._meter = BusyMeter(config.window_seconds)
        self._autoscaler = Autoscaler(config, self.limits)
        self.course: Course | None = None
        self.pinned = config.pinned
        self._report = BalanceReport(runs=dict.fromkeys(RESULTS, 0))
        self._due = 0.0
        # Of the shards, that was planned for: it is not waited for until the next look.
        self._change = ""
        self._target: _Staged | None = None

    def tick(self) -> None:
        """Look if that is due; else follow what is on. What fails is logged, counted and tried again."""
        with self.lock:
            try:
                self._tick(self._wall())
            except NoMapYetError:
                log.debug("waits for the first placement")
            except (RayTimeoutError, ray.exceptions.RayError) as error:
                log.warning("the balancer cannot look: %s", error)
                self._failed(f"the registry does not answer: {error}")
            except Exception as error:
                log.exception("a look has failed, the next one is due in %.0f s", self._config.interval_seconds)
                self._failed(f"a fault: {error}")

    def refresh(self) -> float:
        """Gather what is new and follow what is on; return the time. Raises as `Desk`, or NoMapYetError."""
        now = self._wall()
        course = self._resumed()
        self.outlook.gather(now)
        self._follow(course, now)
        return now

    def move(self, verdict: Verdict, now: float) -> PlanReport:
        """Propose what a verdict has found, or as much of it as shards have memory for: the rest follows by itself.

        Raises MigrationRefusedError, or as `Desk`.
        """
        return self._advance(_Staged(verdict, self.outlook.current, self._before(now)), now)

    def _advance(self, target: "_Staged", now: float) -> PlanReport:
        """Take a step. The last one tells what all promise together, so it is measured against what was before all."""
        step = self._step(target.verdict, now)
        last = step.placement is target.verdict.placement
        start = target if last else _Staged(step, self.outlook.current, self._before(now))
        plan = self._propose(step, now, start)
        self._target = None if last else target
        return plan

    def _before(self, now: float) -> Sequence[TimedLoad]:
        """What was reported of the current placement in the last window."""
        return within(self.outlook.loads, now - self._config.window_seconds, now, self.outlook.current.epoch)

    def _step(self, verdict: Verdict, now: float) -> Verdict:
        """As much of a verdict's placement as fits now, and what that promises."""
        outlook, current, planned = self.outlook, self.outlook.current, verdict.placement
        assert planned is not None
        layers, supply, held_S = outlook.facts.layers, outlook.supply(), held_by_shards(current, outlook.facts.layers)
        room_S = supply.slots_S + math.floor(len(layers) * self._config.extra_copies)
        step = staged(current, planned, layers, held_S, room_S, supply.slots_S)
        if step is None:
            raise MigrationRefusedError(
                "no layer can change: shards lack the memory to hold what is now and what is to be: "
                "raise balance.extra_copies"
            )
        if step is planned:
            return verdict
        demand = merged(within(outlook.loads, now - self._config.window_seconds, now))
        gain = predicted_gain(demand, current, step, supply.costs) if demand else 0.0
        work = moves(current, step, layers, supply.expert_bytes)
        return Verdict(True, f"{verdict.reason}, in steps", step, gain, work)

    def _propose(self, verdict: Verdict, now: float, start: "_Staged") -> PlanReport:
        assert verdict.placement is not None
        assert verdict.work is not None
        assert self.course is not None
        current = self.outlook.current
        limit = self._config.prepare_seconds
        epoch = self._desk.propose(verdict.placement, current.epoch, verdict.reason, limit)
        self.balancer.began(now, current, verdict.placement, verdict.work.layers)
        log.info("moves experts", extra=fields(epoch=epoch, reason=verdict.reason, copies=verdict.work.added))
        move = Move(epoch, start.old, verdict.placement, now, verdict.gain, start.before)
        return self.course.began(move, verdict.reason, verdict.work)

    def _continued(self, target: "_Staged", now: float) -> bool:
        """Take the next step of a plan; whether there is one."""
        self._target = None
        verdict = target.verdict
        assert verdict.placement is not None
        facts = self.outlook.facts
        work = moves(self.outlook.current, verdict.placement, facts.layers, facts.expert_bytes)
        if not work.added + work.dropped:
            return False
        try:
            self._advance(dataclasses.replace(target, verdict=dataclasses.replace(verdict, work=work)), now)
        except MigrationRefusedError as error:
            self.publish("failed", f"the next step was refused: {error}")
        else:
            self.publish("moved", verdict.reason)
        return True

    def publish(self, result: str = "", reason: str = "") -> None:
        """Leave the report with the registry; with a `result` it tells of a look that is over. Raises as `Desk`."""
        assert self.course is not None
        self._note(result, reason)
        current = self.outlook.current
        self._report = replace(
            self._report,
            epoch=current.epoch,
            automatic=self._config.automatic,
            pinned=self.pinned,
            copies_moved=self.course.copies_moved,
            replicas_S=held_by_shards(current, self.outlook.facts.layers).tolist(),
            plans=list(self.course.plans),
            shards=self.outlook.wanted,
            most_shards=self.outlook.bounds.most_shards,
        )
        self._desk.note(self._report)

    @property
    def window_s(self) -> float:
        """How far back it looks."""
        return self._config.window_seconds

    def want(self, shards: int) -> None:
        """Set how many shards are wanted; the next tick plans for them. Raises as `Desk`."""
        self._desk.want(shards)
        self.outlook.wanted = shards
        self.publish()

    def _tick(self, now: float) -> None:
        self.refresh()
        self._autoscale(now)
        assert self.course is not None
        due = now >= self._due
        if self._target is not None and not self.course.moving and self._continued(self._target, now):
            return None
        change = self.outlook.stock.change(self.outlook.current)
        if self.course.moving or not (due or change != self._change):
            return self._follow_up(now if due else None)
        self._change = change
        self._due = now + self._config.interval_seconds
        return self._look(now)

    def _autoscale(self, now: float) -> None:
        """Want as many shards as their own load asks for; tell a registry that was restarted how many are wanted."""
        outlook = self.outlook
        busy = self._meter.busy(now, outlook.stock.computed)
        wanted = self._autoscaler.wanted(now, outlook.wanted, busy)
        if wanted != outlook.wanted:
            shares = {shard: round(share, 3) for shard, share in sorted(busy.items())}
            log.info("another number of shards is wanted", extra=fields(shards=wanted, busy=shares))
        if wanted != outlook.wanted or outlook.unsaid:
            self.want(wanted)

    def _look(self, now: float) -> None:
        verdict = self.balancer.look(self.outlook.scene(now, self.pinned))
        if not verdict.move:
            return self.publish("kept", verdict.reason)
        try:
            self.move(verdict, now)
        except MigrationRefusedError as error:
            return self.publish("failed", f"the move was refused: {error}")
        return self.publish("moved", verdict.reason)

    def _follow_up(self, due: float | None) -> None:
        """Tell how a move goes on; with each look that is due also that this balancer lives."""
        assert self.course is not None
        if due is not None:
            self._due = due + self._config.interval_seconds
            self.publish("kept", "a move is on")
        elif self.course.plans != self._report.plans:
            self.publish()

    def _follow(self, course: Course, now: float) -> None:
        if course.moving and (over := course.follow(self._desk.migration())) is not None:
            failed = over.state == "failed"
            self.balancer.restraint.ended(now, failed)
            log.info("a move is over", extra=fields(epoch=over.epoch, state=over.state, reason=over.reason))
            if failed:
                self._target = None
                self._count("failed")
        measured = course.measure(now, list(self.outlook.loads), self.outlook.supply().costs) if course.plans else None
        if measured is not None and measured.measured_gain is not None:
            self.balancer.restraint.measured(now, measured.predicted_gain, measured.measured_gain)
            log.info(
                "a move's gain is known", extra=fields(promised=measured.predicted_gain, gave=measured.measured_gain)
            )

    def _resumed(self) -> Course:
        """The course so far; at the start it is what the registry has of a balancer before this one."""
        if self.course is None:
            last = self._desk.report()
            if last is not None:
                self._report, self.pinned = last, last.pinned
                self.outlook.wanted = last.shards or self.outlook.wanted
                self.balancer.restraint.resume([(one.ended or one.began, one.state == "failed") for one in last.plans])
            self.course = Course(self._config.window_seconds, last)
        return self.course

    def _failed(self, reason: str) -> None:
        """Note a look that has failed; whoever can still be told is told with the next one."""
        now = self._wall()
        if now >= self._due:
            self._due = now + self._config.interval_seconds
            self._note("failed", reason)

    def _note(self, result: str, reason: str) -> None:
        if not result:
            return
        now = self._wall()
        self._count(result)
        success = self._report.last_success if result == "failed" else now
        self._report = replace(self._report, last_run=now, last_success=success, result=result, reason=reason)

    def _count(self, result: str) -> None:
        runs = dict.fromkeys(RESULTS, 0) | self._report.runs
        self._report = replace(self._report, runs=runs | {result: runs[result] + 1})
