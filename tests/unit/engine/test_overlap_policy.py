"""When a step is split in two, with times that the test makes up."""

from collections.abc import Callable, Sequence

import pytest

from router_service.engine.overlap import MIN_ROWS, TRY_EVERY, OverlapPolicy, halves
from router_service.engine.scheduling.sequence import ScheduledSequence
from router_service.engine.scheduling.step_cost import StepShape

ROWS = 16


def sequences(lengths: Sequence[int]) -> list[ScheduledSequence]:
    return [
        ScheduledSequence(
            key=key, token_ids=[1] * length, start=0, block_tables=([0],), wants_logits=True, decoding=length == 1
        )
        for key, length in enumerate(lengths)
    ]


def lengths_of(parts: Sequence[Sequence[ScheduledSequence]]) -> list[list[int]]:
    return [[len(item.token_ids) for item in part] for part in parts]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([1] * 16, [[1] * 8, [1] * 8]),
        ([1] * 9, [[1] * 4, [1] * 5]),
        ([1] * 7, [[1] * 7]),
        ([512], [[512]]),
        ([1] * 6 + [512], [[1] * 6, [512]]),
        ([512] + [1] * 6, [[512], [1] * 6]),
        ([1, 1, 512], [[1, 1, 512]]),
        ([100, 300, 90, 110], [[100, 300], [90, 110]]),
    ],
)
def test_halves_are_as_even_as_sequences_allow(lengths: list[int], expected: list[list[int]]) -> None:
    """Each has at least `MIN_ROWS` rows, else the step stays whole; the order stays."""
    parts = halves(sequences(lengths))
    assert lengths_of(parts) == expected
    assert [item.key for part in parts for item in part] == list(range(len(lengths)))
    assert len(parts) == 1 or min(sum(map(len, (item.token_ids for item in part))) for part in parts) >= MIN_ROWS


class Steps:
    """Steps of one size; `seconds(two)` is what each way takes."""

    def __init__(self, seconds: Callable[[bool], float], rows: int = ROWS) -> None:
        self.policy, self.seconds, self.rows = OverlapPolicy("auto"), seconds, rows

    def run(self, count: int) -> list[bool]:
        """Whether each step was split."""
        taken = []
        for _ in range(count):
            two = len(self.policy.split(sequences([1] * self.rows), StepShape(self.rows, self.rows))) == 2
            self.policy.observe(self.seconds(two))
            taken.append(two)
        return taken


@pytest.mark.parametrize(("mode", "parts"), [("on", 2), ("off", 1)])
def test_on_and_off_measure_nothing(mode: str, parts: int) -> None:
    policy = OverlapPolicy(mode)  # type: ignore[arg-type]
    for seconds in (1.0, 100.0) * 50:
        assert len(policy.split(sequences([1] * ROWS), StepShape(ROWS, ROWS))) == parts
        policy.observe(seconds)


def test_the_faster_way_is_taken_and_the_other_seldom_tried() -> None:
    for two_s, wins in ((0.7, True), (1.4, False)):
        steps = Steps(lambda two, two_s=two_s: two_s if two else 1.0)
        steps.run(2 * TRY_EVERY)
        later = steps.run(10 * TRY_EVERY)
        assert later.count(not wins) == 10


def test_a_gain_of_less_than_five_percent_is_not_taken() -> None:
    assert Steps(lambda two: 0.97 if two else 1.0).run(10 * TRY_EVERY).count(True) < 20


def test_what_is_taken_is_kept_until_it_loses() -> None:
    """The hysteresis: taken at 0.9 of the time, kept at 0.98, left at 1.1."""
    factor = 0.9
    steps = Steps(lambda two: factor if two else 1.0)
    steps.run(2 * TRY_EVERY)
    assert all(steps.run(TRY_EVERY // 2))
    factor = 0.98
    assert steps.run(20 * TRY_EVERY).count(False) == 20
    factor = 1.1
    steps.run(20 * TRY_EVERY)
    assert steps.run(TRY_EVERY).count(True) == 1


def test_one_disturbed_step_decides_nothing() -> None:
    number = 0

    def seconds(two: bool) -> float:
        nonlocal number
        number += 1
        return 50.0 if number % 37 == 0 else 1.3 if two else 1.0

    steps = Steps(seconds)
    steps.run(2 * TRY_EVERY)
    assert steps.run(20 * TRY_EVERY).count(True) == 20


def test_a_change_of_load_does_not_pass_for_a_difference() -> None:
    """Steps of either way become slower and slower: only neighbours are compared."""
    number = 0

    def seconds(two: bool) -> float:
        nonlocal number
        number += 1
        return (1 + number / 200) * (1.2 if two else 1.0)

    steps = Steps(seconds)
    steps.run(2 * TRY_EVERY)
    assert steps.run(30 * TRY_EVERY).count(True) == 30


def test_sizes_and_kinds_are_judged_apart() -> None:
    """Two batches win for many rows and lose for few; prompts are another matter."""
    policy = OverlapPolicy("auto")
    shapes = {
        "few": (sequences([1] * 8), StepShape(8, 8)),
        "many": (sequences([1] * 40), StepShape(40, 40)),
        "prompts": (sequences([20, 20]), StepShape(prefill_tokens=40, prefill_pairs=420)),
    }
    factors, taken = {"few": 1.5, "many": 0.6, "prompts": 1.5}, dict.fromkeys(shapes, 0)
    for number in range(4 * TRY_EVERY):
        for name, (scheduled, shape) in shapes.items():
            two = len(policy.split(scheduled, shape)) == 2
            policy.observe(factors[name] if two else 1.0)
            taken[name] += two and number >= 2 * TRY_EVERY
    assert taken == {"few": 2, "many": 2 * TRY_EVERY - 2, "prompts": 2}


def test_a_step_that_is_not_observed_changes_nothing() -> None:
    """As one that lost tokens: the next split forgets it."""
    steps = Steps(lambda two: 0.7 if two else 1.0)
    for _ in range(10 * TRY_EVERY):
        steps.policy.split(sequences([1] * ROWS), StepShape(ROWS, ROWS))
    steps.policy.split(sequences([1]), StepShape(1, 1))
    steps.policy.observe(1e9)
    assert steps.run(7).count(True) == 0
