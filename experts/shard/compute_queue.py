"""The threads of several routers' connections take turns at computing, each for all calls that then wait for its layer.

A call that finds nobody computing is computed at once by the thread that brought it: nothing is delayed so that it may
be merged, and one router's calls wake no second thread. Who comes meanwhile waits; whoever has computed then wakes the
thread of the call that leads (see `WaitingCalls`), which takes the waiting calls of its layer (flat combining, Hendler
et al. 2010, with the turn handed on after each computation, so that no thread computes for others while its own router
waits for its answer).
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from experts.host.log import fields
from experts.merging import merged, taken_apart
from experts.shard.waiting_calls import WaitingCall, WaitingCalls
from experts.transport.call import ExpertCall, Partial, Stamps
from experts.transport.inbox import Closed

log = logging.getLogger(__name__)

# By then an expert has enough rows to keep the cores busy: reading its weights once more costs little beside them.
MOST_ROWS = 4096


@dataclass(slots=True)
class ComputeCounts:
    """What has been computed: calls, the computations it took, the calls that shared one, (row, expert) pairs."""

    calls: int = 0
    computations: int = 0
    merged_calls: int = 0
    assignments: int = 0

    def add(self, calls: Sequence[ExpertCall]) -> None:
        """Count one computation of `calls`."""
        self.calls += len(calls)
        self.computations += 1
        self.merged_calls += len(calls) if len(calls) > 1 else 0
        self.assignments += sum(len(call.rows_A) for call in calls)


class ComputeQueue:
    """Computes calls by `work`, which gets a call of one or several routers and returns its y_ND.

    Args:
        most_rows, layers: see `WaitingCalls`.
        clock_ns: the clock of the stamps.
        check: raises what is wrong with a call. Asked before a call waits, as it may be merged with others then, which
            it must not fail; `work` is to check for itself too.

    `turn` is held during a computation.
    """

    def __init__(
        self,
        work: Callable[[ExpertCall], Tensor],
        most_rows: int = MOST_ROWS,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        layers: Iterable[int] = (),
        check: Callable[[ExpertCall], object] = lambda _: None,
    ) -> None:
        self.turn = threading.Lock()
        self.counts = ComputeCounts()  # changed by the computing thread alone
        self._work = work
        self._check = check
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._waiting = WaitingCalls(most_rows, layers)
        self._busy = False
        self._computing_since_ns: int | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

    @property
    def computing_since_ns(self) -> int | None:
        """When the computation that runs now began, by `clock_ns`; None if none does."""
        return self._computing_since_ns

    def compute(self, call: ExpertCall, received_ns: int, connection: Hashable, gone: Callable[[], bool]) -> Partial:
        """Compute `call`, maybe together with others; blocks until its sums are there.

        The sums are those of the call alone: bit for bit where a product's accumulation does not depend on the number
        of its rows, else within the dtype's tolerance.

        Args:
            received_ns: when its last byte was received.
            connection: what it came on: calls of one connection are computed in their order.
            gone: whether its router has hung up. Such a call is dropped when its turn comes.

        Raises:
            Closed: the router has gone.
            Exception: what `check` or `work` raised for this call.
        """
        if self._take_turn():
            return self._compute_at_once(call, received_ns)
        self._check(call)
        mine = WaitingCall(call, received_ns, connection, gone)
        with self._lock:
            self._waiting.add(mine)
            mine.leads, self._busy = not self._busy, True
        if not mine.leads:
            mine.woken.wait()
        if mine.leads:
            self._lead(mine)
        if isinstance(mine.outcome, Partial):
            return mine.outcome
        raise mine.outcome or RuntimeError("the computation has ended without an outcome")

    def _take_turn(self) -> bool:
        """Whether nobody computes; then the turn is ours."""
        with self._lock:
            if self._busy or not self.turn.acquire(blocking=False):
                return False
            self._busy = True
            return True

    def _compute_at_once(self, call: ExpertCall, received_ns: int) -> Partial:
        """The usual case: one router, or a shard that keeps up. It is kept short, as every layer waits for it."""
        try:
            started = self._computing_since_ns = self._clock_ns()
            y_ND = self._work(call)
            done = self._clock_ns()
            self.counts.add((call,))
        finally:
            self._computing_since_ns = None
            self.turn.release()
            self._hand_on()
        return Partial(y_ND, Stamps(received_ns, started, done), 0, call.form)

    def _lead(self, mine: WaitingCall) -> None:
        batch: list[WaitingCall] = []
        try:
            with self.turn:
                with self._lock:
                    batch = self._waiting.take(mine)
                self._compute_all(batch)
        finally:
            # First of all the next computation: answering may take the routers' time, not the shard's.
            self._hand_on()
            for one in batch:
                one.woken.set()

    def _hand_on(self) -> None:
        with self._lock:
            heir = self._waiting.leader if len(self._waiting) else None
            self._busy = heir is not None
        if heir is not None:
            heir.leads = True
            heir.woken.set()

    def _compute_all(self, batch: list[WaitingCall]) -> None:
        present = []
        for one in batch:
            if one.gone():
                one.outcome = Closed("the router hung up before its call was computed")
            else:
                present.append(one)
        try:
            if present:
                self._compute_together(present)
        except Exception as error:
            self._blame(present, error)

    def _blame(self, batch: list[WaitingCall], error: Exception) -> None:
        """Compute each call by itself, as one call's fault must not become its neighbours'."""
        if len(batch) == 1:
            batch[0].outcome = error
            return
        layer = batch[0].call.layer
        log.warning("could not compute calls together: %s", error, extra=fields(layer=layer, calls=len(batch)))
        for one in batch:
            try:
                self._compute_together([one])
            except Exception as fault:
                one.outcome = fault

    def _compute_together(self, batch: list[WaitingCall]) -> None:
        calls, started = [one.call for one in batch], self._clock_ns()
        self._computing_since_ns = started
        try:
            y_ND = self._work(merged(calls))
        finally:
            self._computing_since_ns = None
        done = self._clock_ns()
        self.counts.add(calls)
        shares_ns = own_ns(calls, done - started)
        for one, part_ND, share_ns in zip(batch, taken_apart(y_ND, calls), shares_ns, strict=True):
            stamps = Stamps(one.received_ns, started, done)
            one.outcome = Partial(part_ND, stamps, done - started - share_ns, one.call.form)


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
