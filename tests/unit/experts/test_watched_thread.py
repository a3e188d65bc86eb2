"""No thread of ours ends unseen."""

import logging
import threading
from collections.abc import Callable

import pytest

from cluster.processes.announcer import Announcer
from cluster.processes.service_registry import Announcement
from experts.host.watched_thread import ThreadWatch
from tests.support.mesh import until

WAIT_S = 60.0


def broken() -> None:
    raise LookupError("out of luck")


def ended() -> None:
    pass


@pytest.mark.parametrize("error", [LookupError, OSError, SystemExit, KeyboardInterrupt])
def test_a_fault_is_logged_with_its_stack_and_counted(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise error("out of luck")

    watch = ThreadWatch(("writer", "reader"))
    watch.start("writer", broken, name="writer 7").join(WAIT_S)
    assert watch.failures == {"writer": 1, "reader": 0}
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.getMessage() == "thread writer 7 has failed"
    assert line.exc_info is not None
    assert line.exc_info[0] is error
    watch.check()  # its peer opens another one


@pytest.mark.parametrize(("target", "said"), [(broken, "has failed"), (ended, "has ended unexpectedly")])
def test_one_that_must_last_is_missed(target: Callable[[], None], said: str, caplog: pytest.LogCaptureFixture) -> None:
    watch = ThreadWatch()
    watch.check()
    watch.start("engine", target, lasts_until=lambda: False).join(WAIT_S)
    assert watch.failures == {"engine": 1}
    assert said in caplog.text
    with pytest.raises(RuntimeError, match="threads have died: engine"):
        watch.check()


def test_one_that_was_told_to_end_is_not(caplog: pytest.LogCaptureFixture) -> None:
    watch, told, heard = ThreadWatch(("engine",)), threading.Event(), list[str]()

    def work(word: str) -> None:
        told.wait(WAIT_S)
        heard.append(word)

    thread = watch.start("engine", work, "word", lasts_until=told.is_set)
    watch.check()
    told.set()
    thread.join(WAIT_S)
    assert (heard, watch.failures, caplog.text) == (["word"], {"engine": 0}, "")
    watch.check()


def test_an_announcer_that_breaks_is_missed() -> None:
    """Without it the process is forgotten within ten seconds, while it would go on as if nothing were."""

    def describe() -> Announcement:
        raise LookupError("out of luck")

    watch = ThreadWatch()
    Announcer(None, describe, lambda _: None, watch)
    until(lambda: watch.failures.get("announcer") == 1, "it is counted")
    with pytest.raises(RuntimeError, match="announcer"):
        watch.check()
