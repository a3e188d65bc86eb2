"""Stamps of another host's clock, brought onto ours."""

import time
from collections.abc import Callable

import pytest

from experts.transport.call import Stamps
from experts.transport.clock import HALF_MINUTE_NS, ShardClock
from tests.support.mesh import Mesh, greedy
from tests.support.tiny import Tiny

AHEAD = 7_000_000_000_000


def exchange(clock: ShardClock, begun: int, out: int, back: int, ahead: int = AHEAD) -> tuple[int, int]:
    """One exchange with 1000 ns of work; return the dispatch and combine times after correction."""
    received = begun + out + ahead
    sent = received + 1000
    done = sent - ahead + back
    stamps = clock.corrected(begun, Stamps(received, received, sent), done)
    return stamps.received - begun, done - stamps.sent


def test_equal_ways_are_found_exactly() -> None:
    clock = ShardClock()
    assert exchange(clock, 10**12, 400, 400) == (400, 400)
    assert clock.error_ns == 400


def test_the_fastest_exchange_corrects_a_slow_one() -> None:
    clock = ShardClock()
    exchange(clock, 10**12, 200, 200)
    assert exchange(clock, 10**12 + 10_000, 5200, 200) == (5200, 200)


def test_the_error_is_within_its_bound() -> None:
    clock = ShardClock()
    dispatch, combine = exchange(clock, 10**12, 700, 100)
    assert dispatch + combine == 800
    assert abs(dispatch - 700) <= clock.error_ns == 400


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    clock = ShardClock()
    exchange(clock, 10**12, 10, 10)
    for step in range(1, 4):
        last = exchange(clock, 10**12 + step * (HALF_MINUTE_NS + 10_000), 300, 300, AHEAD + 5_000)
    assert last == (300, 300)
    assert clock.error_ns == 300


@pytest.mark.parametrize("ahead", [-AHEAD, AHEAD])
def test_phases_of_a_shard_on_another_clock(tiny: Callable[..., Tiny], ahead: int) -> None:
    # No clock is below zero, and this machine's may have started a minute ago.
    ahead = max(ahead, -time.monotonic_ns() // 2)
    there = lambda: time.monotonic_ns() + ahead  # noqa: E731
    checkpoint = tiny("mixtral")
    with Mesh(checkpoint.plan, shards=2, way="tcp", clocks=dict.fromkeys((0, 1), there)) as mesh:
        begun = time.monotonic_ns()
        mesh.generate([[1, 2, 3]], greedy(8))
        elapsed = time.monotonic_ns() - begun
        calls = [call for record in mesh.records for trip in record.trace.trips for call in trip.calls]
        error = mesh.engine.pool.transport.clock_error_s(0)
    assert calls
    for call in calls:
        # No call outlasts all of them; the clocks are hours apart, or half of this machine's life.
        assert all(abs(nanoseconds) < elapsed for nanoseconds in call.phases_ns)
        assert sum(call.phases_ns) > 0
    assert elapsed < abs(ahead), "else it shows nothing"
    assert 0 < error < elapsed / 1e9
