"""The course of the balancer's moves: from a proposal to what it gave, and the report of all that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from cluster.balance.judging.loads import TimedLoad, within
from cluster.balance.judging.measuring import measured_gain
from cluster.balance.moves import Moves
from experts.costs import ShardCosts
from experts.placement import Placement
from router_service.protocol.balance import BalanceReport, PlanReport

# For people; a cluster makes one in minutes.
MOST_PLANS = 10
# Where little is routed a gain takes longer to measure; later than this it would be of another time.
MOST_WINDOWS = 5
OVER = ("done", "failed")


class Progress(Protocol):
    """How far a change of placement is, as the registry says."""

    @property
    def epoch(self) -> int:
        """Of the map that it leads to."""

    @property
    def state(self) -> str:
        """preparing, switched, done or failed."""

    @property
    def reason(self) -> str:
        """Why it was made, or has failed."""

    @property
    def began(self) -> float:
        """Seconds since 1970."""

    @property
    def ended(self) -> float:
        """Seconds since 1970, 0 while it is on."""

    @property
    def shards_loading(self) -> int:
        """Shards that it gives something new."""

    @property
    def shards_ready(self) -> int:
        """Those of them that hold it."""


@dataclass(frozen=True, slots=True)
class Move:
    """A move that was proposed: between which placements, when, what was promised, and what was reported `before`."""

    epoch: int
    old: Placement
    new: Placement
    began: float
    gain: float
    before: Sequence[TimedLoad] = ()


class Course:
    """The plans so far, the latest last. Times are seconds since 1970.

    Args:
        report: of a balancer before this one, whose plans are gone on from.
    """

    def __init__(self, window_s: float, report: BalanceReport | None = None) -> None:
        self._window_s = window_s
        self.plans: list[PlanReport] = list(report.plans) if report else []
        self.copies_moved = report.copies_moved if report else 0
        self._move: Move | None = None

    @property
    def moving(self) -> bool:
        """Whether the last plan is not over."""
        return bool(self.plans) and self.plans[-1].state not in OVER

    def began(self, move: Move, reason: str, work: Moves) -> PlanReport:
        """A plan was proposed and taken."""
        self._move = move
        plan = PlanReport(
            epoch=move.epoch,
            state="preparing",
            reason=reason,
            copies_added=work.added,
            copies_dropped=work.dropped,
            bytes=work.bytes,
            began=move.began,
            predicted_gain=move.gain,
            shards_loading=int((work.added_LS.sum(axis=0) > 0).sum()),
        )
        self.plans = [*self.plans, plan][-MOST_PLANS:]
        return plan

    def follow(self, progress: Progress | None) -> PlanReport | None:
        """Take over how far the last plan is; return it if it is over just now.

        A registry that has forgotten it (None, or an older one) was restarted while shards prepared: they gave it up.
        """
        if not self.moving:
            return None
        last = self.plans[-1]
        if progress is None or progress.epoch < last.epoch:
            now = msgspec.structs.replace(last, state="failed", reason="the registry was restarted meanwhile")
        else:
            now = msgspec.structs.replace(
                last,
                state=progress.state,
                reason=progress.reason or last.reason,
                ended=progress.ended,
                shards_ready=progress.shards_ready,
                shards_loading=progress.shards_loading,
            )
        self.plans[-1] = now
        if now.state == "done":
            self.copies_moved += now.copies_added
        return now if now.state in OVER else None

    def measure(self, now: float, loads: Sequence[TimedLoad], costs: ShardCosts) -> PlanReport | None:
        """What the last plan gave, once a window has passed behind it; return its report, once."""
        move = self._move
        last = self.plans[-1] if self.plans else None
        if move is None or last is None or last.epoch != move.epoch or last.state != "done":
            return None
        if now < last.ended + self._window_s:
            return None
        after = within(loads, last.ended, now, move.epoch)
        gave = measured_gain(move.before, after, move.old, move.new, costs)
        if gave is None:
            self._move = move if now < last.ended + MOST_WINDOWS * self._window_s else None
            return None
        self._move = None
        self.plans[-1] = msgspec.structs.replace(last, measured_gain=gave)
        return self.plans[-1]
