"""The balancer as a Serve deployment of one replica. It takes no part in serving: while it is gone, all goes on."""

import asyncio
import os
import threading
import time
from typing import Any

from cluster.balance.judging.stock import ModelFacts
from cluster.config import config_from
from cluster.processes.balancing.actions import BalanceActions
from cluster.processes.balancing.desk import BalanceDesk
from cluster.processes.balancing.loop import BalanceLoop
from cluster.processes.balancing.outlook import Bounds
from cluster.processes.maps.map_follower import layout_of
from cluster.processes.process import set_logging
from cluster.processes.ray_calls import CALL_SECONDS
from cluster.processes.service_registry import find_registry
from experts.host.watched_thread import ThreadWatch
from router_service.protocol.balance import BalanceRefusal, RebalanceOutcome

TICK_SECONDS = 1.0
# Planning takes a second for the largest models; a tick has a handful of calls to the registry, each with its limit.
STUCK_SECONDS = 60.0
# It computes while others serve: behind them.
NICENESS = 10


class BalancerReplica:
    """Looks at what was routed, moves experts where that pays, and answers what operators ask of it."""

    def __init__(self, data: dict[str, Any], layers: list[int], experts: int, expert_bytes: int, each: int) -> None:
        config = config_from(data)
        set_logging(config, "balancer")
        os.nice(NICENESS)  # before its thread is started, which inherits it
        layout = layout_of(config, experts)
        bounds = Bounds(config.experts.shards, config.experts.room(experts), config.experts.copies, each)
        facts = ModelFacts(tuple(layers), experts, expert_bytes)
        desk = BalanceDesk(find_registry(config.cluster.application), layout)
        self._loop = BalanceLoop(desk, config.balance, facts, bounds)
        self._actions = BalanceActions(self._loop)
        self._closing = threading.Event()
        self._beat = time.monotonic()
        self._threads = ThreadWatch(("balancer",))
        self._thread = self._threads.start("balancer", self._run, lasts_until=self._closing.is_set)

    async def rebalance(
        self, dry_run: bool = False, placement: str = "", pin: bool | None = None
    ) -> RebalanceOutcome | BalanceRefusal:
        """Find a better placement and begin to move to it, or say why not; see `RebalanceRequest`."""
        return await asyncio.to_thread(self._actions.rebalance, dry_run, placement, pin)

    async def scale(self, shards: int) -> tuple[int, int] | BalanceRefusal:
        """Set how many shards are wanted; return how many were before, and are now."""
        return await asyncio.to_thread(self._actions.scale, shards)

    async def advise(self) -> str | BalanceRefusal:
        """Return the advice as JSON: whether copies of experts would pay. Changes nothing."""
        return await asyncio.to_thread(self._actions.advise)

    async def record(self, seconds: float) -> str | BalanceRefusal:
        """Return what was routed in so many seconds before now, as a recording's JSON. Changes nothing."""
        return await asyncio.to_thread(self._actions.record, seconds)

    def check_health(self) -> None:
        """Called by Serve once a second.

        Raises:
            RuntimeError: its thread has died, or hangs: Serve replaces it.
        """
        self._threads.check()
        if (silent := time.monotonic() - self._beat) > STUCK_SECONDS:
            raise RuntimeError(f"the balancer has not looked for {silent:.0f} s")

    async def __del__(self) -> None:
        """Called by Serve when it stops the replica."""
        # Serve also calls this when `__init__` has failed half-way.
        if hasattr(self, "_closing"):
            self._closing.set()
        if hasattr(self, "_thread"):
            await asyncio.to_thread(self._thread.join, CALL_SECONDS)

    def _run(self) -> None:
        while not self._closing.wait(TICK_SECONDS):
            self._loop.tick()
            self._beat = time.monotonic()
