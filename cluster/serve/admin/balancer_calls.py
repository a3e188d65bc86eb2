"""Calls of the balancer's deployment for operators: each ends in time, and with a refusal if nobody answers."""

from collections.abc import Awaitable
from typing import Any

import ray
from ray.serve.exceptions import RayServeException

from cluster.processes.ray_calls import RayTimeoutError, await_ref
from router_service.protocol.balance import BalanceRefusal, RebalanceOutcome

# Less than the Front allows its call (`admin_service.ANSWER_SECONDS`), because this one says who is silent.
BALANCER_SECONDS = 45.0
GONE = "the balancer does not answer, serving goes on without it: {problem}; try again when Serve has replaced it"
SILENT = (RayTimeoutError, RayServeException, ray.exceptions.RayError)


class BalancerCalls:
    """`AdminActions` by a Serve handle of `BalancerReplica`. Used on an event loop.

    While no replica runs, Serve lets a call wait; it is bounded here. What the balancer itself raises is raised here.
    """

    def __init__(self, handle: Any, seconds: float = BALANCER_SECONDS) -> None:
        self._handle = handle
        self._seconds = seconds

    async def rebalance(self, dry_run: bool, placement: str, pin: bool | None) -> RebalanceOutcome | BalanceRefusal:
        """See `AdminActions`."""
        answer: RebalanceOutcome | BalanceRefusal = await self._answer(
            self._handle.rebalance.remote(dry_run, placement, pin)
        )
        return answer

    async def scale(self, shards: int) -> tuple[int, int] | BalanceRefusal:
        """See `AdminActions`."""
        answer: tuple[int, int] | BalanceRefusal = await self._answer(self._handle.scale.remote(shards))
        return answer

    async def advise(self) -> str | BalanceRefusal:
        """See `AdminActions`."""
        answer: str | BalanceRefusal = await self._answer(self._handle.advise.remote())
        return answer

    async def record(self, seconds: float) -> str | BalanceRefusal:
        """See `AdminActions`."""
        answer: str | BalanceRefusal = await self._answer(self._handle.record.remote(seconds))
        return answer

    async def _answer(self, call: Awaitable[Any]) -> Any:
        try:
            return await await_ref(call, "the balancer", self._seconds)
        except SILENT as raised:
            # What the balancer's own code raises comes wrapped, with its whole stack as the message.
            error = getattr(raised, "cause", None) or raised
            if not isinstance(error, SILENT):
                raise error from raised
            return BalanceRefusal("unavailable", GONE.format(problem=" ".join(str(error).split())))
