from dataclasses import dataclass

import pytest

from router_service.engine.scheduling.deadlines import PrefillSpeed, hopeless


@dataclass(frozen=True)
class Job:
    key: int
    pending: int
    deadline: float | None
    caller: str = ""
    priority: int = 0


def given_up(jobs: list[Job], now: float, speed: PrefillSpeed, cached: int = 0) -> list[int]:
    return [job.key for job in hopeless(jobs, now, lambda job: job.deadline, speed, lambda _: cached)]


def test_without_a_measurement_only_past_deadlines_count() -> None:
    jobs = [Job(0, 10**9, 5.0), Job(1, 1, 4.9), Job(2, 1, None)]
    assert given_up(jobs, 5.0, PrefillSpeed()) == [1]


def test_one_that_could_not_be_prefilled_in_time_alone_is_given_up() -> None:
    speed = PrefillSpeed()
    speed.note(1000, 1.0)
    jobs = [Job(0, 2000, 12.0), Job(1, 2001, 12.0), Job(2, 2001, None)]
    assert given_up(jobs, 10.0, speed) == [1]


def test_what_may_be_cached_costs_nothing() -> None:
    speed = PrefillSpeed()
    speed.note(1000, 1.0)
    assert given_up([Job(0, 3000, 11.0)], 10.0, speed, cached=2000) == []
    assert given_up([Job(0, 3000, 11.0)], 10.0, speed, cached=1999) == [0]


def test_the_best_of_the_latest_speeds_counts() -> None:
    speed = PrefillSpeed(remembered=2)
    for tokens in (9000, 100, 1000):
        speed.note(tokens, 1.0)
    assert speed.seconds_for(500) == pytest.approx(0.5)


def test_steps_without_tokens_or_time_say_nothing() -> None:
    speed = PrefillSpeed()
    speed.note(0, 1.0)
    speed.note(10, 0.0)
    assert speed.seconds_for(500) == 0.0
