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
from experts.shard.progress import Progress
from experts.shard.refusals import CallCancelledError, Cancels, NoTimeLeftError, ShardBusyError
from experts.shard.waiting_calls import CallKey, WaitingCall, WaitingCalls
from experts.transport.call import ExpertCall, Partial, Stamps
from experts.transport.inbox import Closed

log = logging.getLogger(__name__)

# By then an expert has enough rows to keep the cores busy: reading its weights once more costs little beside them.
MOST_ROWS = 4096
# Calls that wait. A connection has one that waits, whatever its router has sent behind it, and a router has a few
# connections: more mean that routers ask and give up faster than this shard computes.
MOST_WAITING = 256
MOST_OF_ROUTER = 32
# For a router that is refused: as long as the last computation took, within these.
LEAST_RETRY_US, MOST_RETRY_US = 1_000, 1_000_000


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


class ComputeQueue:
    """Computes calls by `work`, which gets a call of one or several routers and returns its y_ND.

    Args:
        most_rows, layers: see `WaitingCalls`.
        clock_ns: the clock of the stamps.
        check: raises what is wrong with a call. Asked before a call waits, as it may be merged with others then, which
            it must not fail; `work` is to check for itself too.
        most_waiting, most_of_router: calls that wait at a time, of all routers and of one.

    `turn` is held during a computation. `faults` counts the computations that have failed since the last that did not,
    but for those whose call was wrong in itself (ValueError).
    """

    def __init__(
        self,
        work: Callable[[ExpertCall], Tensor],
        most_rows: int = MOST_ROWS,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        layers: Iterable[int] = (),
        check: Callable[[ExpertCall], object] = lambda _: None,
        most_waiting: int = MOST_WAITING,
        most_of_router: int = MOST_OF_ROUTER,
    ) -> None:
        self.turn = threading.Lock()
        self.counts = ComputeCounts()  # changed by the computing thread alone, but for what is counted under the lock
        self.faults = 0
        self.progress = Progress(clock_ns)
        self._work = work
        self._check = check
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._waiting = WaitingCalls(most_rows, layers)
        self._most_waiting = most_waiting
        self._most_of_router = most_of_router
        self._cancels = Cancels()
        self._last_ns = 0
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

    def compute(
        self,
        call: ExpertCall,
        received_ns: int,
        connection: Hashable,
        gone: Callable[[], bool],
        key: CallKey | None = None,
    ) -> Partial:
        """Compute `call`, maybe together with others; blocks until its sums are there.

        The sums are those of the call alone: bit for bit where a product's accumulation does not depend on the number
        of its rows, else within the dtype's tolerance.

        Args:
            received_ns: when its last byte was received.
            connection: what it came on: calls of one connection are computed in their order.
            gone: whether its router has hung up. Such a call is dropped when its turn comes.
            key: what `cancel` names it by.

        Raises:
            Closed: the router has gone.
            CallCancelledError: it has cancelled this call.
            NoTimeLeftError: the call's turn came too late.
            ShardBusyError: too many calls wait.
            Exception: what `check` or `work` raised for this call.
        """
        if self._take_turn(key):
            return self._compute_at_once(call, received_ns)
        self._check(call)
        mine = WaitingCall(call, received_ns, connection, gone, key)
        with self._lock:
            self._admit(mine)
            mine.leads, self._busy = not self._busy, True
        if not mine.leads:
            mine.woken.wait()
        if mine.leads:
            self._lead(mine)
        if isinstance(mine.outcome, Partial):
            return mine.outcome
        raise mine.outcome or RuntimeError("the computation has ended without an outcome")

    def cancel(self, key: CallKey) -> None:
        """Drop a call, or the one that comes by this key. What computes now goes on."""
        with self._lock:
            one = self._waiting.find(key)
            if one is None:
                self._cancels.add(key)
                return
            one.cancelled = True
            if one.leads:  # its thread is about to take the turn, and others count on that
                return
            self._waiting.remove(one)
            self.counts.cancelled += 1
        one.outcome = CallCancelledError()
        one.woken.set()

    def _admit(self, mine: WaitingCall) -> None:
        self._check_cancelled(mine.key)
        ours = self._waiting.of_router(mine.key[0]) if mine.key else 0
        if len(self._waiting) >= self._most_waiting or ours >= self._most_of_router:
            self.counts.refused += 1
            raise ShardBusyError(min(max(self._last_ns // 1000, LEAST_RETRY_US), MOST_RETRY_US))
        self._waiting.add(mine)

    def _check_cancelled(self, key: CallKey | None) -> None:
        try:
            self._cancels.check(key)
        except CallCancelledError:
            self.counts.cancelled += 1
            raise

    def _take_turn(self, key: CallKey | None) -> bool:
        """Whether nobody computes; then the turn is ours."""
        with self._lock:
            self._check_cancelled(key)
            if self._busy or not self.turn.acquire(blocking=False):
                return False
            self._busy = True
            return True

    def _compute_at_once(self, call: ExpertCall, received_ns: int) -> Partial:
        """The usual case: one router, or a shard that keeps up. It is kept short, as every layer waits for it."""
        try:
            started = self._begin()
            if (late := self._late(call, received_ns, started)) is not None:
                raise late
            y_ND = self._worked(call)
            done = self._clock_ns()
            self._last_ns = done - started
            self.counts.add((call,))
        finally:
            self._end()
            self.turn.release()
            self._hand_on()
        return Partial(y_ND, Stamps(received_ns, started, done), 0, call.form)

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
        started = self._computing_since_ns = self._clock_ns()
        return started

    def _end(self) -> None:
        self._computing_since_ns = None
        self.progress.end()

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
                heir.leads = True  # under the lock: from now on it cannot be cancelled without its thread
        if heir is not None:
            heir.woken.set()

    def _compute_all(self, batch: list[WaitingCall]) -> None:
        present, now_ns = [], self._clock_ns()
        for one in batch:
            one.outcome = self._unwanted(one, now_ns)
            if one.outcome is None:
                present.append(one)
        try:
            if present:
                self._compute_together(present)
        except Exception as error:
            self._blame(present, error)

    def _unwanted(self, one: WaitingCall, now_ns: int) -> Exception | None:
        """Why there is no use in computing a call whose turn has come."""
        if one.cancelled:
            self.counts.cancelled += 1
            return CallCancelledError()
        if one.gone():
            return Closed("the router hung up before its call was computed")
        return self._late(one.call, one.received_ns, now_ns)

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
        calls, started = [one.call for one in batch], self._begin()
        try:
            y_ND = self._worked(merged(calls))
        finally:
            self._end()
        done = self._clock_ns()
        self._last_ns = done - started
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
