"""How much each caller has been served: the counters of the Virtual Token Counter.

Sheng et al. 2024, "Fairness in Serving Large Language Models" (arXiv 2401.00588), algorithm 2. Plain data.
"""

from router_service.engine.scheduling.rising_heap import Rank, RisingHeap

# Callers without a waiting request whose counters are remembered; beyond it those that were served least are forgotten.
MAX_IDLE_CALLERS = 4096


class CallerCounters:
    """A counter of computed tokens for each caller. A caller is active while a request of it waits.

    A caller that becomes active is lifted to the least counter of the active ones (to the last one that was active, if
    none is), so that nobody saves up a claim while idle. The least counter never falls.

    A forgotten caller starts again from that least counter. For a caller below it nothing is lost, since it would have
    been lifted there. So with more than `max_idle` idle callers, memory stays bounded and fairness is hardly touched.
    """

    def __init__(self, max_idle: int = MAX_IDLE_CALLERS) -> None:
        self._max_idle = max_idle
        self._counters: dict[str, int] = {}
        self._active: set[str] = set()
        self._by_counter: RisingHeap[str] = RisingHeap(self._active_rank)
        self._idle: RisingHeap[str] = RisingHeap(self._idle_rank)
        self._floor = 0

    def __getitem__(self, caller: str) -> int:
        """The caller's counter in tokens."""
        return self._counters.get(caller, self._floor)

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._counters)

    def charge(self, caller: str, tokens: int) -> None:
        """Add tokens that were computed for the caller, whether it is active or not."""
        known = caller in self._counters
        self._counters[caller] = self[caller] + tokens
        if not known:
            self._idle.add(caller)
            self._forget()

    def activate(self, caller: str) -> None:
        """Note that a request of the caller waits."""
        if caller not in self._active:
            self._counters[caller] = max(self[caller], self._least())
            self._active.add(caller)
            self._by_counter.add(caller)

    def deactivate(self, caller: str) -> None:
        """Note that none of the caller's requests waits."""
        self._floor = self._least()
        self._active.discard(caller)
        if not self._active:
            self._floor = max(self._floor, self[caller])
        self._idle.add(caller)
        self._forget()

    def _least(self) -> int:
        least = self._by_counter.least()
        return self._floor if least is None else max(self._floor, self[least])

    def _forget(self) -> None:
        while len(self._counters) - len(self._active) > self._max_idle:
            caller = self._idle.least()
            assert caller is not None
            del self._counters[caller]

    def _active_rank(self, caller: str) -> Rank | None:
        return (self._counters[caller],) if caller in self._active else None

    def _idle_rank(self, caller: str) -> Rank | None:
        known = caller in self._counters and caller not in self._active
        return (self._counters[caller],) if known else None
