"""When experts are moved: simulated traffic and time, the whole balancer."""

import warnings
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.support.routed_traffic import zipf

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from tests.unit.balance.simulated_cluster import BEGAN, CONFIG, EXPERTS, LAYERS, Shard, SimulatedCluster, steady

NO_COPIES = replace(CONFIG, extra_copies=0.0)


def test_steady_heat_is_moved_once_and_gives_what_was_promised() -> None:
    cluster = SimulatedCluster(steady(1.5))
    cluster.run(300)
    (plan,) = cluster.told.plans
    assert (plan.state, plan.epoch, cluster.current.epoch) == ("done", 2, 2)
    assert plan.predicted_gain >= CONFIG.least_gain
    assert plan.measured_gain == pytest.approx(plan.predicted_gain, rel=0.2)
    assert cluster.told.copies_moved == plan.copies_added > 0
    assert plan.bytes == plan.copies_added << 20
    assert cluster.told.runs["moved"] == 1
    assert cluster.told.result == "kept"
    assert sum(cluster.told.replicas_S) >= LAYERS * EXPERTS


def test_it_waits_until_enough_looks_promise_it() -> None:
    """A window's halves need enough each, so the first promise comes with the third look or later."""
    for rounds, earliest in ((1, 30), (4, 60)):
        cluster = SimulatedCluster(steady(1.5), replace(CONFIG, rounds=rounds))
        cluster.run(120)
        assert cluster.moved[0].began - BEGAN >= earliest


def test_even_traffic_moves_nothing() -> None:
    cluster = SimulatedCluster(steady(0.0))
    cluster.run(200)
    assert not cluster.moved
    assert cluster.told.runs == {"moved": 0, "kept": 20, "failed": 0}


def test_heat_that_passes_moves_nothing() -> None:
    """Every two minutes twenty seconds of other experts' heat, in traffic that is even.

    Without extra copies, which would even out single steps whatever is hot.
    """
    even = zipf(LAYERS, EXPERTS, 0.0)
    hot = [zipf(LAYERS, EXPERTS, 2.0, seed) for seed in range(20)]
    cluster = SimulatedCluster(lambda at: hot[int(at // 120)] if at % 120 < 20 else even, NO_COPIES)
    reasons = []
    for _ in range(48):
        cluster.run(10)
        reasons.append(cluster.told.reason)
    assert not cluster.moved
    assert any(reason.endswith("heat that passes") for reason in reasons)


def test_heat_that_goes_from_domain_to_domain_is_followed_once_a_change() -> None:
    """Three domains by turns, each two minutes: never more plans than changes of heat."""
    domains = [zipf(LAYERS, EXPERTS, 1.5, seed) for seed in range(3)]
    cluster = SimulatedCluster(lambda at: domains[int(at // 120) % 3])
    cluster.run(600)
    changes = 600 // 120
    assert 1 <= len(cluster.moved) <= changes
    for turn in range(changes):
        begin = BEGAN + 120 * turn
        assert len([one for one in cluster.moved if begin <= one.began < begin + 120]) <= 1


def test_heat_that_moves_every_minute_is_not_chased() -> None:
    domains = [zipf(LAYERS, EXPERTS, 1.5, seed) for seed in range(3)]
    cluster = SimulatedCluster(lambda at: domains[int(at // 60) % 3])
    cluster.run(600)
    assert len(cluster.moved) <= 600 // 60
    for turn in range(600 // 60):
        begin = BEGAN + 60 * turn
        assert len([one for one in cluster.moved if begin <= one.began < begin + 60]) <= 1


def test_a_move_that_fails_is_tried_again_later_and_later() -> None:
    cluster = SimulatedCluster(steady(1.5))
    cluster.fails = True
    cluster.run(550)
    assert cluster.current.epoch == 1
    begun = [one.began for one in cluster.moved]
    gaps = [later - sooner for sooner, later in pairwise(begun)]
    assert len(gaps) >= 2
    assert gaps[0] >= 2 * CONFIG.cooldown_seconds
    assert gaps[1] >= 4 * CONFIG.cooldown_seconds
    assert cluster.told.plans[-1].reason == "shard 1 refuses: no memory"
    assert cluster.told.runs["failed"] == len([one for one in cluster.moved if one.state == "failed"])


def test_a_balancer_that_is_replaced_goes_on() -> None:
    cluster = SimulatedCluster(steady(1.5), prepare_s=40.0)
    cluster.run(80)
    assert cluster.moved[-1].state == "preparing"
    runs = sum(cluster.told.runs.values())
    cluster.loop = cluster.started()
    cluster.run(30)
    assert (cluster.told.plans[-1].state, len(cluster.moved)) == ("done", 1)
    assert sum(cluster.told.runs.values()) > runs
    # It cools down as the one before would have.
    cluster.loop = cluster.started()
    cluster.run(2)
    assert cluster.loop.balancer.restraint.until == cluster.moved[0].ended + CONFIG.cooldown_seconds


def test_pinned_it_only_measures() -> None:
    cluster = SimulatedCluster(steady(1.5), replace(CONFIG, pinned=True))
    cluster.run(200)
    assert not cluster.moved
    assert (cluster.told.pinned, cluster.told.reason) == (True, "pinned: only measures")


def test_not_automatic_it_only_measures() -> None:
    cluster = SimulatedCluster(steady(1.5), replace(CONFIG, automatic=False))
    cluster.run(200)
    assert not cluster.moved
    assert cluster.told.reason == "not automatic: only measures"


def test_with_little_traffic_it_says_how_much_would_do() -> None:
    cluster = SimulatedCluster(steady(1.5))
    cluster.steps = cluster.tokens = 1
    cluster.run(60)
    assert not cluster.moved
    assert cluster.told.reason.startswith("too little was routed: 40 tokens' experts a layer, 512 say enough")


def test_no_move_while_a_shard_is_away() -> None:
    cluster = SimulatedCluster(steady(1.5))
    cluster.entries[2] = Shard(2, state="loading")
    cluster.run(200)
    assert not cluster.moved
    assert cluster.told.reason == "waits for shard 2, which is loading"
    cluster.entries[2] = Shard(2, started_ns=int((cluster.now - 5) * 1e9))
    cluster.run(10)
    assert "younger than" in cluster.told.reason or not cluster.moved
    cluster.run(100)
    assert len(cluster.moved) == 1


def test_a_silent_registry_counts_as_failed_looks_and_is_asked_again() -> None:
    cluster = SimulatedCluster(steady(0.0))
    cluster.run(30)
    success = cluster.told.last_success
    cluster.silent = True
    cluster.run(30)
    assert cluster.told.last_success == success
    cluster.silent = False
    cluster.run(10)
    assert cluster.told.runs["failed"] == 3
    assert cluster.told.last_success > success


def test_shards_that_come_and_go_are_planned_for_at_once() -> None:
    """Whatever that gains, automatic or not, pinned or not."""
    cluster = SimulatedCluster(steady(0.0), replace(CONFIG, automatic=False, pinned=True))
    cluster.run(12)
    cluster.board.wanted = 5
    cluster.run(3)
    assert not cluster.moved
    cluster.entries[4] = Shard(4)
    cluster.run(10)
    assert (cluster.moved[0].reason, sorted(cluster.current.holding)) == ("shards 4 have come", [0, 1, 2, 3, 4])
    # However young the others are: that they have come is no reason to wait.
    cluster.entries |= {index: Shard(index, started_ns=int(cluster.now * 1e9)) for index in range(5)}
    cluster.board.wanted = 3
    cluster.run(10)
    assert (cluster.moved[1].reason, sorted(cluster.current.holding)) == ("shards 3, 4 are to go", [0, 1, 2])
    assert (cluster.told.shards, cluster.told.most_shards) == (3, 6)
