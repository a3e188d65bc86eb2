"""What holds moves back: bytes, cool-downs, failures, reversals, disappointments."""

from dataclasses import replace

import numpy as np

from cluster.balance.config import BalanceConfig
from cluster.balance.judging.thrash import DISTURBANCE, PAYBACK_SECONDS, Restraint, changes, least_gain_for
from cluster.balance.moves import Moves, moves
from experts.placement import LayerPlacement, Placement, even_placement

COOLDOWN = 60.0
HERE = even_placement(8, 4)
THERE = Placement(4, LayerPlacement(tuple((3 - expert // 2,) for expert in range(8))))
ELSEWHERE = Placement(4, LayerPlacement(tuple((expert % 4,) for expert in range(8))))


def loading(mib: int) -> Moves:
    """One shard loads so much, in one expert."""
    return Moves((0,), np.array([[1, 0]]), np.array([[0, 1]]), mib << 20)


def test_what_takes_long_to_load_must_gain_more() -> None:
    config = BalanceConfig(least_gain=0.05, bandwidth_mib=100.0)
    assert least_gain_for(loading(100), config) == 0.05
    seconds = 1000.0
    assert least_gain_for(loading(int(100 * seconds)), config) == DISTURBANCE * seconds / PAYBACK_SECONDS
    assert least_gain_for(loading(int(100 * seconds)), replace(config, bandwidth_mib=0.0)) == 0.05


def test_changes_are_what_moves_counts() -> None:
    changed_LES, work = changes(HERE, THERE, [0, 1]), moves(HERE, THERE, [0, 1])
    assert ((changed_LES > 0).sum(), (changed_LES < 0).sum()) == (work.added, work.dropped) == (16, 16)


def test_a_plan_that_undoes_the_last_must_promise_twice_as_much() -> None:
    restraint = Restraint(COOLDOWN)
    restraint.began(100.0, HERE, THERE, [0])
    assert restraint.factor(200.0, THERE, HERE, [0]) == 2
    assert restraint.factor(200.0, THERE, ELSEWHERE, [0]) == 1
    restraint.began(200.0, THERE, HERE, [0])
    assert restraint.factor(300.0, HERE, THERE, [0]) == 4
    assert restraint.factor(300.0 + 5 * COOLDOWN, HERE, THERE, [0]) < 4


def test_a_plan_that_failed_changed_nothing_that_could_be_undone() -> None:
    restraint = Restraint(COOLDOWN)
    restraint.began(100.0, HERE, THERE, [0])
    restraint.ended(110.0, failed=True)
    assert restraint.factor(200.0, HERE, THERE, [0]) == 1
    assert restraint.until == 110.0 + 2 * COOLDOWN


def test_failures_in_a_row_wait_longer_up_to_a_limit() -> None:
    restraint = Restraint(COOLDOWN)
    waits = []
    for _ in range(8):
        restraint.ended(0.0, failed=True)
        waits.append(restraint.until / COOLDOWN)
    assert waits == [2, 4, 8, 16, 32, 32, 32, 32]
    restraint.ended(0.0)
    assert restraint.until == COOLDOWN


def test_it_goes_on_behind_another_balancers_plans() -> None:
    restraint = Restraint(COOLDOWN)
    restraint.resume([(10.0, False), (100.0, True), (200.0, True)])
    assert restraint.until == 200.0 + 4 * COOLDOWN


def test_after_plans_that_gave_less_than_half_the_next_must_promise_more_for_a_while() -> None:
    restraint = Restraint(COOLDOWN)
    restraint.measured(0.0, promised=0.2, gave=0.05)
    restraint.measured(100.0, promised=0.2, gave=0.0)
    assert restraint.factor(200.0, HERE, THERE, [0]) == 4
    assert restraint.factor(100.0 + 11 * 5 * COOLDOWN, HERE, THERE, [0]) == 1
    restraint.measured(0.0, promised=0.2, gave=0.0)
    restraint.measured(1.0, promised=0.2, gave=0.15)
    assert restraint.factor(2.0, HERE, THERE, [0]) == 1
