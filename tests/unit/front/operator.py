"""A control plane that records what it is asked and answers what a test says."""

import asyncio
from typing import Any, Self

from router_service.protocol.balance import BalanceRefusal, PlanReport, RebalanceOutcome
from tests.unit.front.front_world import World

PLAN = PlanReport(
    epoch=4, state="preparing", copies_added=12, copies_dropped=4, bytes=36 << 20, began=5.0, predicted_gain=0.18
)
PLACEMENT = '{"epoch": 4}'


class FakeControlPlane:
    """`AdminActions`: answers with `answers`, by the name of the call; one that is not there never answers."""

    def __init__(self, **answers: Any) -> None:
        moving = RebalanceOutcome("moving", "shard 0 is the slowest", PLAN, PLACEMENT)
        self.answers: dict[str, Any] = {
            "rebalance": moving,
            "scale": (2, 3),
            "advise": '{"copies": 0}',
            "record": "{}",
        } | answers
        self.asked: list[tuple[Any, ...]] = []
        self.called = asyncio.Event()
        self.cancelled = asyncio.Event()

    @classmethod
    def silent(cls, call: str) -> Self:
        silent = cls()
        del silent.answers[call]
        return silent

    async def rebalance(self, dry_run: bool, placement: str, pin: bool | None) -> RebalanceOutcome | BalanceRefusal:
        answer: RebalanceOutcome | BalanceRefusal = await self._answer("rebalance", dry_run, placement, pin)
        return answer

    async def scale(self, shards: int) -> tuple[int, int] | BalanceRefusal:
        answer: tuple[int, int] | BalanceRefusal = await self._answer("scale", shards)
        return answer

    async def advise(self) -> str | BalanceRefusal:
        answer: str | BalanceRefusal = await self._answer("advise")
        return answer

    async def record(self, seconds: float) -> str | BalanceRefusal:
        answer: str | BalanceRefusal = await self._answer("record", seconds)
        return answer

    async def _answer(self, call: str, *arguments: Any) -> Any:
        self.asked.append((call, *arguments))
        self.called.set()
        if call in self.answers:
            if isinstance(answer := self.answers[call], Exception):
                raise answer
            return answer
        try:
            return await asyncio.Event().wait()
        finally:
            self.cancelled.set()


async def operated(world: World, control: FakeControlPlane | None) -> None:
    """Serve, with this control plane."""
    world.admin = control
    await world.serve()
