"""What the balancer knows of its cluster, gathered from the registry."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.balance.config import BalanceConfig
from cluster.balance.judging.board import NotedLoad
from cluster.balance.judging.decision import LONG, Scene
from cluster.balance.judging.loads import TimedLoad
from cluster.balance.judging.stock import ModelFacts, ShardEntry, Stock, costs_of, suspects_of
from cluster.balance.supply import Supply
from cluster.processes.maps.map_view import MapView
from cluster.processes.maps.migration import Migration
from experts.placement import Placement
from router_service.protocol.balance import BalanceReport


class Desk(Protocol):
    """The registry, as `cluster.processes.balancing.desk.BalanceDesk` asks it."""

    def shards(self) -> Mapping[int, ShardEntry]:
        """The youngest entry of each shard."""

    def loads(self, since: int) -> list[NotedLoad]:
        """The routers' reports behind number `since`."""

    def view(self, known: int) -> MapView:
        """The current map, if its epoch is over `known`."""

    def migration(self) -> Migration | None:
        """How far the last change of placement is."""

    def propose(self, placement: Placement, basis: int, reason: str, seconds: float) -> int:
        """Propose a placement; return its epoch."""

    def note(self, report: BalanceReport) -> None:
        """Leave the balancer's report."""

    def report(self) -> BalanceReport | None:
        """The latest report."""

    def want(self, shards: int) -> None:
        """Set how many shards are wanted."""

    def wanted(self) -> int:
        """How many shards are wanted, 0 if nobody has said."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many shards the configuration starts with, how many there may be, and the copies of each expert.

    `each` is how many experts of a layer a shard's memory holds; 0 is not known.
    """

    shards: int
    most_shards: int
    copies: int
    each: int = 0


class NoMapYetError(RuntimeError):
    """No placement has been decided yet: the cluster is starting."""


class Outlook:
    """Remembers what was gathered, so that each report and each map is fetched once."""

    def __init__(self, desk: Desk, config: BalanceConfig, facts: ModelFacts, bounds: Bounds) -> None:
        self._desk = desk
        self._config = config
        self.facts = facts
        self.bounds = bounds
        self.loads: deque[TimedLoad] = deque()
        self.wanted = bounds.shards
        self.unsaid = True  # the registry does not know how many are wanted
        self._current: Placement | None = None
        self._entries: Mapping[int, ShardEntry] = {}
        self._seen = 0

    @property
    def current(self) -> Placement:
        """The current placement.

        Raises:
            NoMapYetError: there is none.
        """
        if self._current is None:
            raise NoMapYetError("no placement has been decided yet: try again when the cluster serves")
        return self._current

    @property
    def stock(self) -> Stock:
        """The shards."""
        return Stock(self._entries, self.wanted, self.bounds.copies, self._config.extra_copies)

    def gather(self, now: float) -> None:
        """Ask the registry for all that is new. Raises as `Desk`."""
        self._entries = self._desk.shards()
        said = self._desk.wanted()
        self.wanted, self.unsaid = said or self.wanted, not said
        view = self._desk.view(self._current.epoch if self._current else 0)
        if not said and self._current is None and view.current is not None and view.current.epoch > 1:
            # Both the registry and the balancer are new: what was wanted is what there is.
            self.wanted = max(view.current.holding) + 1
        self._current = view.current or self._current
        for noted in self._desk.loads(self._seen):
            self.loads.append(TimedLoad(now - noted.age_s, noted.load))
            self._seen = noted.number
        kept_s = LONG * self._config.window_seconds + self._config.interval_seconds
        while self.loads and self.loads[0].at <= now - kept_s:
            self.loads.popleft()

    def supply(self) -> Supply:
        """What each shard may hold."""
        return self.stock.supply(self.current, self.facts, costs_of(self.loads))

    def scene(self, now: float, pinned: bool) -> Scene:
        """What the decision is made by."""
        stock, current = self.stock, self.current
        recent = [one for one in self.loads if one.at > now - self._config.interval_seconds]
        forced = stock.change(current)
        # Where another number of shards is wanted, those that have come lately are what the move is for.
        youth_from = math.inf if forced else now
        return Scene(
            now=now,
            loads=list(self.loads),
            current=current,
            supply=self.supply(),
            layers=self.facts.layers,
            absent=stock.absent(current),
            unfit=stock.unfit(current, youth_from, suspects_of(recent)),
            forced=forced,
            pinned=pinned,
        )
