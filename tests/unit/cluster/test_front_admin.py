"""What a Front has of the balancer: calls that end in time, and a report that nobody waits for."""

import asyncio
import warnings
from typing import Any

import pytest
import ray

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from ray.serve.exceptions import BackPressureError

    from cluster.balance.config import BalanceConfig
    from cluster.serve.admin.balancer_calls import BalancerCalls
    from cluster.serve.admin.known_balance import KnownBalance
from router_service.protocol.balance import BalanceRefusal, BalanceReport, RebalanceOutcome

GONE = ray.exceptions.RayActorError()
KEPT = RebalanceOutcome("kept")
CONFIG = BalanceConfig(interval_seconds=7.0, prepare_seconds=99.0)


async def answered(value: object) -> object:
    if isinstance(value, Exception):
        raise value
    return value


class Remote:
    """A handle of a deployment or an actor, whose methods answer what they are told; by default they never do."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, ...]] = []
        self.rebalance = self.scale = self.advise = self.record = self.balance_report = self

    def remote(self, *arguments: Any) -> Any:
        self.asked.append(arguments)
        return answered(self.answers.pop(0)) if self.answers else asyncio.Event().wait()


def fault(cause: Exception) -> Exception:
    """As Ray raises what a method has raised."""
    error: Exception = ray.exceptions.RayTaskError("rebalance", "its whole\nstack", cause).as_instanceof_cause()
    return error


async def test_calls_pass_on_what_is_asked_and_answered() -> None:
    refusal = BalanceRefusal("invalid", "shards is 9")
    remote = Remote(KEPT, refusal, "{}", "[]")
    calls = BalancerCalls(remote)
    assert await calls.rebalance(True, "{}", False) == KEPT
    assert await calls.scale(9) == refusal
    assert (await calls.advise(), await calls.record(3.0)) == ("{}", "[]")
    assert remote.asked == [(True, "{}", False), (9,), (), (3.0,)]


@pytest.mark.parametrize(
    "problem",
    [
        GONE,
        ray.exceptions.RayTaskError("x", "stack", GONE),
        BackPressureError(1, 1),
        ray.exceptions.GetTimeoutError("late"),
    ],
)
async def test_a_balancer_that_is_gone_is_unavailable(problem: Exception) -> None:
    refusal = await BalancerCalls(Remote(problem)).advise()
    assert isinstance(refusal, BalanceRefusal)
    assert refusal.kind == "unavailable"
    assert refusal.message.startswith("the balancer does not answer, serving goes on without it: ")
    assert "\n" not in refusal.message


async def test_a_balancer_that_is_silent_is_not_waited_for_for_ever() -> None:
    refusal = await BalancerCalls(Remote(), seconds=0.01).scale(2)
    assert isinstance(refusal, BalanceRefusal)
    assert "Ray did not answer: waited 0.01 s for the balancer" in refusal.message


async def test_its_own_fault_is_raised_as_it_was() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        await BalancerCalls(Remote(fault(ZeroDivisionError("by zero")))).rebalance(False, "", None)
    assert (type(caught.value), str(caught.value)) == (ZeroDivisionError, "by zero")


async def test_a_call_that_is_given_up_is_cancelled() -> None:
    task = asyncio.create_task(BalancerCalls(Remote()).advise())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_report_stays_while_the_registry_is_silent_or_has_none() -> None:
    known = KnownBalance(Remote(None, BalanceReport(epoch=3), GONE, None, BalanceReport(epoch=4)), CONFIG)
    seen = []
    for _ in range(5):
        await known.ask()
        seen.append(known.report())
    assert [report and report.epoch for report in seen] == [None, 3, 3, 3, 4]


async def test_the_report_says_what_is_late() -> None:
    known = KnownBalance(Remote(BalanceReport(interval=1.0, prepare_seconds=2.0)), CONFIG)
    await known.ask()
    report = known.report()
    assert report is not None
    assert (report.interval, report.prepare_seconds) == (7.0, 99.0)


async def test_a_registry_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.serve.admin.known_balance.ASK_SECONDS", 0.01)
    known = KnownBalance(Remote(), CONFIG)
    await known.ask()
    assert known.report() is None
