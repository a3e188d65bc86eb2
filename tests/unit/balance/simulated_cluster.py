"""A cluster without processes: a registry that migrates as it is told, shards, and a router whose traffic is made up.

Time passes only in `run`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cluster.balance.config import BalanceConfig
from cluster.balance.judging.board import BalanceBoard, NotedLoad
from cluster.balance.judging.stock import ModelFacts
from cluster.processes.balancing.loop import BalanceLoop
from cluster.processes.balancing.outlook import Bounds
from cluster.processes.maps.map_view import MapView
from cluster.processes.maps.migration import Migration, MigrationRefusedError
from experts.placement import Placement, even_placement
from router_service.protocol.balance import BalanceReport
from tests.support.routed_traffic import demand, report, zipf

LAYERS, EXPERTS, SHARDS, ROOM = 2, 16, 4, 6
BEGAN = 1_000_000.0
# Memory for extra copies enough that plans need no steps.
CONFIG = BalanceConfig(
    automatic=True, interval_seconds=10.0, window_seconds=60.0, cooldown_seconds=60.0, extra_copies=3.0
)
Traffic = Callable[[float], NDArray[np.float64]]


@dataclass(frozen=True)
class Shard:
    """A shard's entry."""

    index: int
    node: str = "n"
    state: str = "ready"
    started_ns: int = 0
    replica: str = "r"
    computed_s: float = 0.0


class SimulatedCluster:
    """The balancer's desk, and all that is behind it.

    Args:
        traffic: the weights of the experts at a time.
        prepare_s: how long shards load before a change of placement is done.
    """

    def __init__(self, traffic: Traffic, config: BalanceConfig = CONFIG, prepare_s: float = 5.0) -> None:
        self.now = BEGAN
        self.traffic = traffic
        self.config = config
        self.prepare_s = prepare_s
        self.fails = self.silent = False
        self.steps, self.tokens = 8, 48
        self.entries = {index: Shard(index) for index in range(SHARDS)}
        even = even_placement(EXPERTS, SHARDS, room=ROOM)
        self.current = replace(even, epoch=1)
        self.board = BalanceBoard(lambda: {"r"}, lambda: self.now)
        self.moved: list[Migration] = []
        self._coming: Placement | None = None
        self.loop = self.started()

    def started(self) -> BalanceLoop:
        """A balancer that knows only what the registry has."""
        facts = ModelFacts(tuple(range(LAYERS)), EXPERTS, 1 << 20)
        return BalanceLoop(self, self.config, facts, Bounds(SHARDS, ROOM, 1), wall=lambda: self.now)

    def run(self, seconds: int) -> None:
        """Let time pass: a router reports every five seconds, the balancer looks when it is due."""
        for _ in range(seconds):
            self.now += 1.0
            if int(self.now - BEGAN) % 5 == 0 and self.steps:
                routed = demand(self.traffic(self.now - BEGAN), self.steps, self.tokens, 5.0, int(self.now))
                self.board.note_load(report(routed, epoch=self.current.epoch), 310.0)
            self._migrate()
            self.loop.tick()

    @property
    def told(self) -> BalanceReport:
        """The balancer's last report."""
        assert self.board.report is not None
        return self.board.report

    def shards(self) -> dict[int, Shard]:
        self._answer()
        return self.entries

    def loads(self, since: int) -> list[NotedLoad]:
        return self.board.loads(since)

    def view(self, known: int) -> MapView:
        epoch = self.current.epoch
        return MapView(epoch, self.current if epoch > known else None)

    def migration(self) -> Migration | None:
        return self.moved[-1] if self.moved else None

    def propose(self, placement: Placement, basis: int, reason: str, seconds: float) -> int:
        if basis != self.current.epoch or self._coming is not None:
            raise MigrationRefusedError(f"another change is on, give up after {seconds}")
        self._coming = replace(placement, epoch=(self.moved[-1].epoch if self.moved else 1) + 1)
        self.moved.append(Migration(self._coming.epoch, "preparing", reason, began=self.now))
        return self._coming.epoch

    def note(self, report: BalanceReport) -> None:
        self.board.report = report

    def report(self) -> BalanceReport | None:
        self._answer()
        return self.board.report

    def want(self, shards: int) -> None:
        self.board.wanted = shards

    def wanted(self) -> int:
        return self.board.wanted

    def _answer(self) -> None:
        if self.silent:
            from cluster.processes.ray_calls import RayTimeoutError

            raise RayTimeoutError("Ray did not answer")

    def _migrate(self) -> None:
        if self._coming is None or self.now < self.moved[-1].began + self.prepare_s:
            return
        if self.fails:
            over = replace(self.moved[-1], state="failed", reason="shard 1 refuses: no memory", ended=self.now)
        else:
            over, self.current = replace(self.moved[-1], state="done", ended=self.now), self._coming
        self.moved[-1], self._coming = over, None


def steady(exponent: float, seed: int = 0) -> Traffic:
    """Heat that stays where it is; none with 0."""
    weights = zipf(LAYERS, EXPERTS, exponent, seed)
    return lambda _: weights
