"""No task of an event loop ends unseen."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from experts.host.watched_task import TaskWatch

WAIT_S = 60.0
Work = Callable[[], Awaitable[None]]


async def broken() -> None:
    raise LookupError("out of luck")


async def cancelled_within() -> None:
    raise asyncio.CancelledError


async def ended() -> None:
    pass


async def lasting() -> None:
    await asyncio.Event().wait()


async def settled(task: asyncio.Task[None]) -> None:
    """The task has ended, and whoever asked to hear of that has."""
    await asyncio.wait([task], timeout=WAIT_S)
    await asyncio.sleep(0)
    assert task.done()


async def test_a_fault_is_logged_with_its_stack_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    watch = TaskWatch(("reader", "writer"))
    await settled(watch.start("reader", broken(), name="reader 7"))
    assert watch.failures == {"reader": 1, "writer": 0}
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.getMessage() == "task reader 7 has failed"
    assert line.exc_info is not None
    assert line.exc_info[0] is LookupError
    watch.check()  # whoever needs it begins another one


@pytest.mark.parametrize(
    ("work", "said"),
    [(broken, "has failed"), (cancelled_within, "has ended unexpectedly"), (ended, "has ended unexpectedly")],
)
async def test_one_that_must_last_is_missed(work: Work, said: str, caplog: pytest.LogCaptureFixture) -> None:
    watch = TaskWatch()
    watch.check()
    await settled(watch.start("poller", work(), lasts=True))  # type: ignore[arg-type]
    assert watch.failures == {"poller": 1}
    assert f"task poller {said}" in caplog.text
    with pytest.raises(RuntimeError, match="tasks have died: poller"):
        watch.check()


async def test_one_that_ends_by_itself_or_is_told_to_has_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    watch = TaskWatch()
    await settled(watch.start("link", ended()))
    told = watch.start("poller", lasting(), lasts=True)
    await asyncio.sleep(0)
    told.cancel()
    await settled(told)
    never_begun = watch.start("poller", lasting(), lasts=True)
    never_begun.cancel()
    await settled(never_begun)
    assert watch.failures == {"link": 0, "poller": 0}
    assert caplog.text == ""
    watch.check()
