"""The token bucket behind rate limits and the log of refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.front.auth.token_bucket import TokenBucket

GAPS = st.lists(st.floats(0, 30), min_size=1, max_size=60)


@given(GAPS, st.integers(1, 20), st.floats(0.1, 10))
def test_it_gives_no_more_than_its_capacity_and_its_rate(gaps: list[float], capacity: int, rate: float) -> None:
    bucket, now, taken = TokenBucket.full(capacity, rate, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now) == 0
    assert taken <= capacity + now * rate + 1e-6


@given(GAPS, st.integers(1, 20), st.floats(0.1, 10))
def test_who_waits_as_long_as_told_is_served(gaps: list[float], capacity: int, rate: float) -> None:
    bucket, now = TokenBucket.full(capacity, rate, 0.0), 0.0
    for gap in gaps:
        now += gap
        if (wait := bucket.take(now)) > 0:
            assert bucket.take(now + wait * 0.9) > 0
            now += wait * 1.001
            assert bucket.take(now) == 0


def test_what_is_there_stays_when_the_limits_change_as_far_as_it_fits() -> None:
    bucket = TokenBucket.full(10, 1, 0.0)
    bucket.resize(3, 1, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [0, 0, 0, pytest.approx(1.0)]
