"""How fast is read beside the work that matters, in a time of its own."""

import os
import sys
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.host.background import run_behind
from experts.shard.held.pace import SLICE_SECONDS, Pace
from tests.support.live import LiveRig
from tests.support.tiny import Tiny


class Time:
    """Passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.sleeps = 100.0, list[float]()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= SLICE_SECONDS
        self.sleeps.append(seconds)
        self.now += seconds


def paced(rate: float) -> tuple[Pace, Time]:
    time = Time()
    return Pace(rate, time.clock, time.sleep), time


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50), st.floats(1, 1e6))
def test_bytes_come_at_the_rate(counts: list[int], rate: float) -> None:
    """Each piece waits for as long as those before it last."""
    pace, time = paced(rate)
    for done, count in enumerate(counts):
        pace.take(count)
        assert time.now - 100 == pytest.approx(sum(counts[:done]) / rate, abs=1e-9)


def test_no_limit_never_waits() -> None:
    pace, time = paced(0)
    for _ in range(100):
        pace.take(1 << 30)
    assert time.sleeps == []


def test_idle_time_is_not_saved_up() -> None:
    pace, time = paced(1000)
    time.now += 60
    pace.take(500)
    pace.take(500)
    assert time.now == pytest.approx(160.5)


def test_who_waits_asks_whether_to_go_on() -> None:
    pace, time = paced(10)
    pace.take(1000)

    class EnoughError(Exception):
        pass

    def go_on() -> None:
        if time.now >= 105:
            raise EnoughError

    with pytest.raises(EnoughError):
        pace.take(1, go_on)
    assert time.now == pytest.approx(105, abs=SLICE_SECONDS)


def test_loading_keeps_to_it(tiny: Callable[..., Tiny]) -> None:
    """What is read is stored in float32; a mebibyte at most is read at a time."""
    pace, time = paced(1000)
    rig = LiveRig(tiny("mixtral").plan, pace=pace)
    rig.live.hold({0: [1, 2]})
    stored = 2 * rig.expert_bytes
    last = 48 * 40 * 4  # the last matrix is down, of one piece
    assert time.now - 100 == pytest.approx((stored - last) / 1000)


def test_work_behind_others() -> None:
    """Its thread has a lower priority, ours has not; results and errors come back."""
    ours = threading.get_ident()

    def niceness() -> tuple[int, bool]:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), threading.get_ident() == ours

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    behind, same = run_behind(niceness, "behind")
    assert not same
    if sys.platform == "linux":
        assert (behind, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())) == (max(10, before), before)

    def fails() -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        run_behind(fails, "behind")
