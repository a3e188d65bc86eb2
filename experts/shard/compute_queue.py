"""The threads of several routers' connections take turns at computing, each for all calls that then wait for its layer.

A call that finds nobody computing is computed at once by the thread that brought it: nothing is delayed so that it may
be merged, and one router's calls wake no second thread. Who comes meanwhile waits; whoever has computed then wakes the
thread of the call that leads (see `WaitingCalls`), which takes the waiting calls of its layer (flat combining, Hendler
et al. 2010, with the turn handed on after each computation, so that no thread computes for others while its own router
waits for its answer).
"""

import threading
import time
from collections.abc import Callable, Hashable, Iterable

from torch import Tensor

from experts.shard.computation import Computation
from experts.shard.refusals import CallCancelledError, Cancels, ShardBusyError
from experts.shard.waiting_calls import CallKey, WaitingCall, WaitingCalls
from experts.transport.call import ExpertCall, Partial

# By then an expert has enough rows to keep the cores busy: reading its weights once more costs little beside them.
MOST_ROWS = 4096
# Calls that wait. A connection has one that waits, whatever its router has sent behind it, and a router has a few
# connections: more mean that routers ask and give up faster than this shard computes.
MOST_WAITING = 256
MOST_OF_ROUTER = 32
# For a router that is refused: as long as the last computation took, within these.
LEAST_RETRY_US, MOST_RETRY_US = 1_000, 1_000_000


class ComputeQueue:
    """Computes calls by `work`, which gets a call of one or several routers and returns its y_ND.

    Args:
        most_rows, layers: see `WaitingCalls`.
        clock_ns: the clock of the stamps.
        check: raises what is wrong with a call. Asked before a call waits, as it may be merged with others then, which
            it must not fail; `work` is to check for itself too.
        most_waiting, most_of_router: calls that wait at a time, of all routers and of one.

    `turn` is held during a computation. `computation` tells how computing goes.
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
        self.computation = Computation(work, clock_ns)
        self.counts = self.computation.counts
        self._check = check
        self._lock = threading.Lock()
        self._waiting = WaitingCalls(most_rows, layers)
        self._most_waiting = most_waiting
        self._most_of_router = most_of_router
        self._cancels = Cancels()
        self._busy = False

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return len(self._waiting)

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

    def _compute_at_once(self, call: ExpertCall, received_ns: int) -> Partial:
        try:
            return self.computation.compute(call, received_ns)
        finally:
            self.turn.release()
            self._hand_on()

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
            raise ShardBusyError(min(max(self.computation.last_ns // 1000, LEAST_RETRY_US), MOST_RETRY_US))
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

    def _lead(self, mine: WaitingCall) -> None:
        batch: list[WaitingCall] = []
        try:
            with self.turn:
                with self._lock:
                    batch = self._waiting.take(mine)
                self.computation.compute_all(batch)
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
