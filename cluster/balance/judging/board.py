"""What the registry keeps for the balancer: what routers have routed lately, its report, how many shards are wanted."""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from experts.demand import RoutedLoad
from router_service.protocol.balance import BalanceReport

# A report has at most a few hundred KiB (`router_service.metrics.load_sampler`).
MOST_LOADS = 64


@dataclass(frozen=True, slots=True)
class NotedLoad:
    """A router's report, `age_s` seconds after it came. Numbers ascend: whoever has seen this asks for what follows."""

    number: int
    age_s: float
    load: RoutedLoad


class BalanceBoard:
    """Plain data in and out.

    Args:
        routers: the routers that live: what others have reported is forgotten.
        clock: in seconds.
    """

    def __init__(self, routers: Callable[[], Collection[str]], clock: Callable[[], float]) -> None:
        self._routers = routers
        self._clock = clock
        self._loads: dict[str, deque[tuple[int, float, float, RoutedLoad]]] = {}
        self._last = 0
        self.report: BalanceReport | None = None
        self.wanted = 0

    def note_load(self, load: RoutedLoad, keep_seconds: float) -> None:
        """Keep a report for so long; of each router at most the latest `MOST_LOADS`."""
        now, self._last = self._clock(), self._last + 1
        kept = self._loads.setdefault(load.router, deque(maxlen=MOST_LOADS))
        kept.append((self._last, now, now + keep_seconds, load))
        self._forget(now)

    def loads(self, since: int = 0) -> list[NotedLoad]:
        """The reports with numbers over `since`, in their order. A board that was started anew counts from 0 again."""
        now = self._clock()
        self._forget(now)
        since = since if since <= self._last else 0
        reports = [
            NotedLoad(number, now - came, load)
            for kept in self._loads.values()
            for number, came, _, load in kept
            if number > since
        ]
        return sorted(reports, key=lambda one: one.number)

    def _forget(self, now: float) -> None:
        living = self._routers()
        self._loads = {router: kept for router, kept in self._loads.items() if router in living}
        for kept in self._loads.values():
            while kept and kept[0][2] <= now:
                kept.popleft()
