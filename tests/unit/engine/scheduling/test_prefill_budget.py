"""Chunks by measured costs: within the target, never below the floor, and right soon after the machine changes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.engine.scheduling.prefill_budget import AUTO_FACTOR, FLOOR_TOKENS, UNLIMITED, PrefillBudget
from router_service.engine.scheduling.step_cost import StepCost, StepShape

COSTS = (2e-3, 3e-4, 2e-7, 1e-4, 3e-8)


def seconds(shape: StepShape, scale: float = 1.0) -> float:
    """What a step takes on the test's machine."""
    return scale * sum(cost * amount for cost, amount in zip(COSTS, shape.features, strict=True))


def decoding(rows: int, context: int = 200) -> StepShape:
    return StepShape(decode_rows=rows, decode_context=rows * context)


def read_prompt(budget: PrefillBudget, rows: int, tokens: int, scale: float = 1.0) -> list[StepShape]:
    """Read a prompt beside `rows` sequences; return the steps' shapes."""
    done, shapes = 0, []
    while done < tokens:
        shape = decoding(rows, 200 + len(shapes))
        chunk = min(budget.tokens(shape, done), tokens - done)
        shapes.append(shape.with_chunk(chunk, done))
        budget.observe(shapes[-1], seconds(shapes[-1], scale))
        done += chunk
    return shapes


def test_without_decoding_sequences_chunks_are_unlimited() -> None:
    assert PrefillBudget().tokens(StepShape(), 0) == UNLIMITED


def test_nothing_is_known_yet() -> None:
    """First comes a step without prompts, which says what streams take by themselves; then the least of a prompt."""
    budget = PrefillBudget()
    assert budget.tokens(decoding(4), 0) == 0
    budget.observe(decoding(4), seconds(decoding(4)))
    assert budget.tokens(decoding(4), 0) == FLOOR_TOKENS


def test_the_base_is_measured_again_among_many_prompts() -> None:
    """128 streams that all come at once: from the first token on every step reads prompts beside them."""
    budget, rows, shapes = PrefillBudget(), 1, list[StepShape]()
    budget.observe(StepShape().with_chunk(2048, 0), 10 * seconds(StepShape().with_chunk(2048, 0)))
    while len(shapes) < 100:
        shapes.append(decoding(rows).with_chunk(budget.tokens(decoding(rows), 0), 0))
        budget.observe(shapes[-1], seconds(shapes[-1]))
        rows = min(128, rows + 4)
    assert 3 <= sum(not shape.prefill_tokens for shape in shapes) <= 5
    mixed = [seconds(shape) / seconds(decoding(shape.decode_rows)) for shape in shapes[50:] if shape.prefill_tokens]
    assert 2.2 < min(mixed) <= max(mixed) < 2.6


@given(st.integers(1, 64), st.integers(200, 4000), st.sampled_from([0.0, 0.02, 0.05]))
def test_steps_keep_the_target(rows: int, tokens: int, target: float) -> None:
    budget = PrefillBudget(target)
    for context in range(200, 240):
        budget.observe(decoding(rows, context), seconds(decoding(rows, context)))
    shapes = read_prompt(budget, rows, tokens)
    for number, shape in enumerate(shapes):
        alone = seconds(decoding(rows, 200 + number))
        floor = seconds(decoding(rows, 200 + number).with_chunk(FLOOR_TOKENS, tokens))
        assert seconds(shape) <= 1.02 * max(target or AUTO_FACTOR * alone, floor)


def test_the_target_is_used_not_only_kept() -> None:
    budget = PrefillBudget(0.05)
    for context in range(200, 240):
        budget.observe(decoding(4, context), seconds(decoding(4, context)))
    shapes = read_prompt(budget, 4, 4000)
    assert seconds(shapes[-2]) > 0.045


def test_later_chunks_are_smaller_where_context_costs() -> None:
    budget = PrefillBudget(0.05)
    read_prompt(budget, 4, 4000)
    assert budget.tokens(decoding(4), 20000) < budget.tokens(decoding(4), 0)


def test_a_slower_machine_is_noticed_within_a_prompt() -> None:
    budget = PrefillBudget(0.05)
    for context in range(200, 300):
        budget.observe(decoding(4, context), seconds(decoding(4, context)))
    read_prompt(budget, 4, 8000)
    for context in range(200, 300):
        budget.observe(decoding(4, context), seconds(decoding(4, context), 3.0))
    read_prompt(budget, 4, 16000, scale=3.0)
    last = read_prompt(budget, 4, 4000, scale=3.0)
    assert max(seconds(shape, 3.0) for shape in last) <= 0.055


def test_hiccups_do_not_move_the_estimate_far() -> None:
    cost, random_ = StepCost(), random.Random(1)
    for number in range(200):
        shape = decoding(random_.randint(1, 32)).with_chunk(random_.randint(0, 300), random_.randint(0, 2000))
        cost.observe(shape, seconds(shape) * (20.0 if number % 16 == 0 else random_.uniform(0.95, 1.05)))
    shape = decoding(8).with_chunk(100, 500)
    assert cost.seconds(shape) == pytest.approx(seconds(shape), rel=0.25)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50), st.floats(0, 10)), max_size=20))
def test_costs_are_never_negative(steps: list[tuple[int, int, float]]) -> None:
    cost = StepCost()
    for rows, chunk, took in steps:
        cost.observe(decoding(rows).with_chunk(chunk, 10), took)
    bare = cost.seconds(decoding(3))
    assert 0 <= bare <= cost.seconds(decoding(4)) <= cost.seconds(decoding(4).with_chunk(9, 100))
