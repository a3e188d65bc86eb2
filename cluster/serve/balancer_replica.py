"""The balancer as a Serve deployment of one replica. It takes no part in serving: while it is gone, all goes on."""

import asyncio
from typing import Any

from cluster.config import config_from
from router_service.protocol.balance import BalanceRefusal, RebalanceOutcome


class BalancerReplica:
    """Looks at what was routed, moves experts where that pays, and answers what operators ask of it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._config = config_from(data)

    async def rebalance(
        self, dry_run: bool = False, placement: str = "", pin: bool | None = None
    ) -> RebalanceOutcome | BalanceRefusal:
        """Find a better placement and begin to move to it, or say why not; see `RebalanceRequest`."""
        return BalanceRefusal("unavailable", "the balancer is not built yet")

    async def scale(self, shards: int) -> tuple[int, int] | BalanceRefusal:
        """Set how many shards are wanted; return how many were before, and are now."""
        return BalanceRefusal("unavailable", "the balancer is not built yet")

    async def advise(self) -> str | BalanceRefusal:
        """Return the advice as JSON: whether copies of experts would pay. Changes nothing."""
        return BalanceRefusal("unavailable", "the balancer is not built yet")

    def check_health(self) -> None:
        """Called by Serve once a second."""

    async def __del__(self) -> None:
        """Called by Serve when it stops the replica."""
        await asyncio.sleep(0)
