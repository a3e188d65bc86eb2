"""What one thread at a time does: compute a call, or several as one, count it, and tell whose fault a fault is."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from experts.host.log import fields
from experts.merging import merged, taken_apart
from experts.shard.progress import Progress
from experts.shard.refusals import CallCancelledError, NoTimeLeftError
from experts.shard.waiting_calls import WaitingCall
from experts.transport.call import ExpertCall, Partial, Stamps
from experts.transport.inbox import Closed

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ComputeCounts:
    """What has been computed: calls, the computations it took, the calls that shared one, (row, expert) pairs.

    And what has not: calls that were `cancelled` before their turn, that had no time left (`expired`), and those for
    which there was no room to wait (`refused`).
    """

    calls: int = 0
    computations: int = 0
    merged_calls: int = 0
    assignments: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0

    def add(self, calls: Sequence[ExpertCall]) -> None:
        """Count one computation of `calls`."""
        self.calls += len(calls)
        self.computations += 1
        self.merged_calls += len(calls) if len(calls) > 1 else 0
        self.assignments += sum(len(call.rows_A) for call in calls)


class Computation:
    """Computes by `work`, which gets a call of one or several routers and returns its y_ND.

    All methods are the computing thread's. Any thread reads what is public: `counts` and `progress`; `since_ns`, when
    the computation that runs now began by `clock_ns`, None if none does; `last_ns`, how long the last one took, and
    `all_ns`, how long all took together; and
    `faults`, how many have failed since the last that did not, but for those whose call was wrong in itself
    (ValueError).
    """

    def __init__(self, work: Callable[[ExpertCall], Tensor], clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.counts = ComputeCounts()
        self.progress = Progress(clock_ns)
        self.since_ns: int | None = None
        self.last_ns = self.all_ns = 0
        self.faults = 0
        self._work = work
        self._clock_ns = clock_ns

    def compute(self, call: ExpertCall, received_ns: int) -> Partial:
        """Compute one call. It is kept short, as usually every layer of a router waits for it.

        Raises:
            NoTimeLeftError: it comes too late.
            Exception: what `work` raised.
        """
        started = self._begin()
        try:
            if (late := self._late(call, received_ns, started)) is not None:
                raise late
            y_ND = self._worked(call)
            done = self._clock_ns()
        finally:
            self._end()
        self.last_ns = done - started
        self.all_ns += self.last_ns
        self.counts.add((call,))
        return Partial(y_ND, Stamps(received_ns, started, done), 0, call.form)

    def compute_all(self, batch: list[WaitingCall]) -> None:
        """Give each call of a batch for one layer its outcome: its own part of the answer, or its own fault."""
        present = [one for one in batch if self._wanted(one)]
        try:
            if present:
                self._compute_together(present)
        except Exception as error:
            self._blame(present, error)

    def _wanted(self, one: WaitingCall) -> bool:
        """Whether there is a use in computing a call whose turn has come; else it has its outcome."""
        if one.cancelled:
            self.counts.cancelled += 1
            one.outcome = CallCancelledError()
        elif one.gone():
            one.outcome = Closed("the router hung up before its call was computed")
        else:
            one.outcome = self._late(one.call, one.received_ns, self._clock_ns())
        return one.outcome is None

    def _blame(self, batch: list[WaitingCall], error: Exception) -> None:
        """Compute each call by itself, as one call's fault must not become its neighbours'."""
        if len(batch) == 1:
            batch[0].outcome = error
            return
        layer = batch[0].call.layer
        log.warning("could not compute calls together: %s", error, extra=fields(layer=layer, calls=len(batch)))
        for one in filter(self._wanted, batch):
            try:
                self._compute_together([one])
            except Exception as fault:
                one.outcome = fault

    def _compute_together(self, batch: list[WaitingCall]) -> None:
        calls, started = [one.call for one in batch], self._begin()
        try:
            y_ND = self._worked(merged(calls))
        finally:
            self._end()
        done = self._clock_ns()
        self.last_ns = done - started
        self.all_ns += self.last_ns
        self.counts.add(calls)
        shares_ns = own_ns(calls, done - started)
        for one, part_ND, share_ns in zip(batch, taken_apart(y_ND, calls), shares_ns, strict=True):
            stamps = Stamps(one.received_ns, started, done)
            one.outcome = Partial(part_ND, stamps, done - started - share_ns, one.call.form)

    def _late(self, call: ExpertCall, received_ns: int, now_ns: int) -> NoTimeLeftError | None:
        if not call.left_us or now_ns - received_ns < 1000 * call.left_us:
            return None
        self.counts.expired += 1
        return NoTimeLeftError()

    def _worked(self, call: ExpertCall) -> Tensor:
        """What `work` makes of a call; counts its faults."""
        try:
            y_ND = self._work(call)
        except ValueError:
            raise
        except Exception:
            self.faults += 1
            raise
        self.faults = 0
        return y_ND

    def _begin(self) -> int:
        self.progress.begin()
        started = self.since_ns = self._clock_ns()
        return started

    def _end(self) -> None:
        self.since_ns = None
        self.progress.end()


def own_ns(calls: Sequence[ExpertCall], compute_ns: int) -> list[int]:
    """Each call's share of a computation of `compute_ns` by assignments, the rows that experts multiply.

    The shares add up to `compute_ns` exactly.
    """
    total, before, shares = sum(len(call.rows_A) for call in calls), 0, []
    for call in calls:
        after = before + len(call.rows_A)
        shares.append(compute_ns * after // total - compute_ns * before // total if total else compute_ns // len(calls))
        before = after
    return shares
