"""Which shards are to run, how many are wanted, and the placement for another number of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.balance.config import BalanceConfig
from cluster.balance.moves import moves
from cluster.balance.planning import plan_placement
from cluster.balance.resizing import resized
from cluster.balance.scaling import Autoscaler, BusyMeter, Limits, to_run
from cluster.balance.supply import Supply
from experts.costs import equal_costs
from experts.demand import Demand
from experts.placement import Placement, even_placement

ROOM, EXPERTS, LAYERS = 8, 16, (1, 3)
LIMITS = Limits(experts=EXPERTS, copies=1, each=10, most=ROOM)
AUTO = BalanceConfig(autoscale_max_shards=6, autoscale_up_seconds=30.0, autoscale_down_seconds=300.0)
SHARDS = st.sets(st.integers(0, ROOM - 1))


@given(st.integers(1, ROOM), SHARDS, SHARDS, st.booleans())
def test_what_is_wanted_or_needed_runs_and_nobody_ends_while_maps_change(
    wanted: int, needed: set[int], there: set[int], changing: bool
) -> None:
    run = to_run(wanted, needed, there, changing)
    assert run >= set(range(wanted)) | needed
    assert run >= there or not changing
    assert run <= set(range(wanted)) | needed | there


@pytest.mark.parametrize(
    ("limits", "shards", "refusal"),
    [
        (LIMITS, 2, ""),
        (LIMITS, ROOM, ""),
        (LIMITS, 9, "there is room for 8"),
        (LIMITS, 1, "each would hold 16 of a layer's 16 experts (copies: 1), and has memory for 10"),
        (LIMITS, 0, "at least 1"),
        (Limits(EXPERTS, 3, 16, ROOM), 2, "at least 3"),
    ],
)
def test_a_number_that_cannot_be_is_refused_with_figures(limits: Limits, shards: int, refusal: str) -> None:
    assert refusal in limits.refusal(shards)
    assert bool(limits.refusal(shards)) == bool(refusal)


def test_fewer_shards_than_memory_holds_are_named() -> None:
    assert "keep at least 4 shards" in Limits(EXPERTS, 2, 10, ROOM).refusal(3)


def demand(seed: int, skew: float = 0.0) -> Demand:
    rng = np.random.default_rng(seed)
    tokens_LE = np.stack([rng.permutation((1000 / np.arange(1, EXPERTS + 1) ** skew).astype(np.int64)) for _ in LAYERS])
    return Demand(LAYERS, tokens_LE, 60.0)


def supply(shards: int, copies: int = 1, each: int = EXPERTS) -> Supply:
    slots_S = np.zeros(ROOM, np.int64)
    slots_S[:shards] = len(LAYERS) * each
    return Supply(slots_S, equal_costs(ROOM), tuple("abcdefgh"), copies, 100)


def held(placement: Placement) -> list[int]:
    return [len(placement.layer(LAYERS[0]).held_by(shard)) for shard in range(ROOM)]


def test_who_has_come_takes_over_and_the_others_only_give_up() -> None:
    before = even_placement(EXPERTS, 2, room=ROOM)
    after = resized(demand(0), supply(4), before)
    work = moves(before, after, LAYERS)
    assert held(after) == [4, 4, 4, 4, 0, 0, 0, 0]
    assert work.added_LS.sum(axis=0).tolist() == [0, 0, 8, 8, 0, 0, 0, 0]


def test_what_goes_is_spread_over_those_that_stay() -> None:
    before = even_placement(EXPERTS, 4, room=ROOM)
    after = resized(demand(0), supply(3), before)
    assert sorted(held(after)) == [0, 0, 0, 0, 0, 5, 5, 6]
    assert moves(before, after, LAYERS).added == 4 * len(LAYERS)
    assert after.holding == {0, 1, 2}


def test_a_plan_goes_on_from_where_the_last_one_was_broken_off() -> None:
    """Wanted changes half-way, or a move fails: the next plan starts from what is held now, whatever that is."""
    now = even_placement(EXPERTS, 2, room=ROOM)
    for shards in (4, 3, 6, 2, 5):
        now = resized(demand(shards, 1.0), supply(shards), now)
        assert now.holding == set(range(shards))


@given(
    st.lists(st.integers(1, ROOM), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(0, 99),
    st.sampled_from([0.0, 1.0, 2.0]),
)
def test_every_expert_keeps_its_copies_and_no_shard_that_goes_keeps_any(
    numbers: list[int], copies: int, seed: int, skew: float
) -> None:
    now = even_placement(EXPERTS, max(3, copies), copies, room=ROOM)
    for shards in numbers:
        if shards >= copies:
            now = resized(demand(seed, skew), supply(shards, copies), now)
            assert now.copies >= copies
            assert now.holding <= set(range(shards))
            assert now.shards == ROOM
            now = plan_placement(demand(seed + 1, skew), supply(shards, copies), now)
            assert now.holding <= set(range(shards))


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="add memory"):
        resized(demand(0), supply(2, each=7), even_placement(EXPERTS, 4, room=ROOM))


def wanted_over(scaler: Autoscaler, shards: int, busy: float, seconds: int) -> list[int]:
    """How many are wanted, second by second, where each of the shards there is as busy."""
    found = []
    for now in range(seconds):
        shards = scaler.wanted(float(now), shards, dict.fromkeys(range(shards), busy))
        found.append(shards)
    return found


def test_more_shards_come_after_they_have_been_busy_for_a_while() -> None:
    assert wanted_over(Autoscaler(AUTO, LIMITS), 2, 0.8, 31) == [2] * 30 + [4]


def test_fewer_stay_after_a_longer_while_but_never_fewer_than_memory_holds() -> None:
    assert wanted_over(Autoscaler(AUTO, LIMITS), 4, 0.1, 301) == [4] * 300 + [2]


@pytest.mark.parametrize("busy", [0.45, 0.5])
def test_near_the_target_nothing_changes(busy: float) -> None:
    assert set(wanted_over(Autoscaler(AUTO, LIMITS), 3, busy, 1000)) == {3}


def test_a_moment_of_load_and_shards_that_are_not_there_yet_change_nothing() -> None:
    scaler = Autoscaler(AUTO, LIMITS)
    assert wanted_over(scaler, 2, 0.9, 20)[-1] == 2
    assert scaler.wanted(20.0, 2, {0: 0.5, 1: 0.5}) == 2
    assert scaler.wanted(35.0, 2, {0: 0.9, 1: 0.9}) == 2
    assert scaler.wanted(70.0, 2, {0: 0.9}) == 2


def test_without_a_most_nobody_is_scaled() -> None:
    assert set(wanted_over(Autoscaler(BalanceConfig(), LIMITS), 2, 1.0, 100)) == {2}


def test_a_shard_is_as_busy_as_the_seconds_it_has_computed() -> None:
    meter = BusyMeter(10.0)
    assert meter.busy(0.0, {0: ("a", 5.0)}) == {}
    assert meter.busy(2.0, {0: ("a", 6.0)}) == {0: 0.5}
    assert meter.busy(12.0, {0: ("a", 16.0)}) == {0: 1.0}
    assert meter.busy(13.0, {0: ("b", 0.5)}) == {}
