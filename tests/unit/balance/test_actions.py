"""What operators ask of the balancer, and what it refuses."""

import json
import warnings
from dataclasses import replace

import pytest

from cluster.balance.placement_file import read_placement, write_placement
from experts.placement import even_placement
from router_service.protocol.balance import BalanceRefusal, RebalanceOutcome
from tests.support.routed_traffic import demand, report

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from cluster.processes.balancing.actions import BalanceActions
    from tests.unit.balance.simulated_cluster import (
        CONFIG,
        EXPERTS,
        LAYERS,
        SHARDS,
        SimulatedCluster,
        steady,
    )

MANUAL = replace(CONFIG, automatic=False)


@pytest.fixture
def cluster() -> SimulatedCluster:
    """One whose traffic promises a gain, and which does not move by itself."""
    simulated = SimulatedCluster(steady(1.5), MANUAL)
    simulated.run(40)
    return simulated


def rebalance(
    cluster: SimulatedCluster, dry_run: bool = False, placement: str = "", pin: bool | None = None
) -> RebalanceOutcome:
    outcome = BalanceActions(cluster.loop).rebalance(dry_run, placement, pin)
    assert isinstance(outcome, RebalanceOutcome), outcome
    return outcome


def refused(cluster: SimulatedCluster, dry_run: bool = False, placement: str = "", pin: bool | None = None) -> str:
    refusal = BalanceActions(cluster.loop).rebalance(dry_run, placement, pin)
    assert isinstance(refusal, BalanceRefusal)
    return f"{refusal.kind}: {refusal.message}"


def test_a_dry_run_says_what_would_be_done_and_does_nothing(cluster: SimulatedCluster) -> None:
    outcome = rebalance(cluster, dry_run=True)
    assert (outcome.result, cluster.moved) == ("planned", [])
    assert outcome.plan is not None
    assert outcome.plan.copies_added > 0
    assert outcome.plan.predicted_gain > 0
    saved = read_placement(outcome.placement)
    assert saved.made_from == {"epoch": 1}
    assert saved.placement.everywhere != cluster.current.everywhere or saved.placement.special


def test_it_moves_at_once_and_is_followed(cluster: SimulatedCluster) -> None:
    outcome = rebalance(cluster)
    assert outcome.result == "moving"
    assert outcome.plan is not None
    assert (outcome.plan.state, outcome.plan.epoch) == ("preparing", 2)
    assert cluster.told.result == "moved"
    assert refused(cluster).startswith("precondition: the move to epoch 2 is on: wait")
    assert rebalance(cluster, dry_run=True).result in ("planned", "kept")
    cluster.run(10)
    assert cluster.told.plans[-1].state == "done"
    saved = read_placement(outcome.placement)
    assert all(cluster.current.layer(layer) == saved.placement.layer(layer) for layer in range(LAYERS))


def test_what_is_good_enough_is_kept() -> None:
    cluster = SimulatedCluster(steady(0.0), MANUAL)
    cluster.run(60)
    outcome = rebalance(cluster)
    if outcome.result == "kept":
        assert outcome.plan is None
        assert read_placement(outcome.placement).placement.layer(0) == cluster.current.layer(0)


def test_with_nothing_routed_it_says_so() -> None:
    cluster = SimulatedCluster(steady(1.5), MANUAL)
    cluster.steps = 0
    cluster.run(10)
    assert rebalance(cluster).reason == "nothing was routed"


def test_a_placement_that_is_given_is_moved_to_and_may_be_pinned(cluster: SimulatedCluster) -> None:
    mine = even_placement(EXPERTS, SHARDS, ring=[3, 2, 1, 0])
    outcome = rebalance(cluster, placement=write_placement(mine, range(LAYERS), "by hand"), pin=True)
    assert (outcome.result, outcome.reason) == ("moving", "by hand")
    cluster.run(10)
    assert cluster.current.layer(0) == cluster.current.everywhere == mine.everywhere
    assert cluster.told.pinned
    assert refused(cluster).startswith("precondition: the placement is pinned: unpin it first")
    again = rebalance(cluster, placement=write_placement(mine, range(LAYERS)))
    assert (again.result, again.reason) == ("kept", "it is the present placement")
    cluster.run(60)
    assert rebalance(cluster, pin=False).result == "moving"
    assert not cluster.told.pinned


def test_pin_alone_only_pins(cluster: SimulatedCluster) -> None:
    outcome = rebalance(cluster, pin=True)
    assert (outcome.result, cluster.moved, cluster.told.pinned) == ("kept", [], True)
    # And is remembered by the balancer that comes after this one.
    cluster.loop = cluster.started()
    cluster.run(10)
    assert cluster.told.pinned


def test_what_does_not_fit_is_refused(cluster: SimulatedCluster) -> None:
    assert refused(cluster, placement="{").startswith("invalid: the placement cannot be used: it is no JSON")
    other = write_placement(even_placement(8, 2), range(LAYERS))
    assert "experts is 8, the model has 16 in a layer" in refused(cluster, placement=other)
    wide = write_placement(even_placement(EXPERTS, 6), range(LAYERS))
    assert "holders is shard 5, there are 4 shards" in refused(cluster, placement=wide)


def test_a_silent_registry_is_told_apart(cluster: SimulatedCluster) -> None:
    cluster.silent = True
    assert refused(cluster).startswith("unavailable: the registry does not answer")


def test_scale_sets_what_is_wanted_within_the_room_there_is(cluster: SimulatedCluster) -> None:
    actions = BalanceActions(cluster.loop)
    assert actions.scale(6) == (4, 6)
    assert (cluster.board.wanted, cluster.told.shards) == (6, 6)
    for shards in (0, 7):
        refusal = actions.scale(shards)
        assert isinstance(refusal, BalanceRefusal)
        assert (refusal.kind, refusal.message.startswith(f"shards is {shards}, ")) == ("invalid", True)


def test_a_registry_that_has_forgotten_what_is_wanted_is_not_believed(cluster: SimulatedCluster) -> None:
    BalanceActions(cluster.loop).scale(5)
    cluster.board.wanted = 0
    cluster.run(12)
    assert cluster.told.shards == 5


def test_advice_is_of_what_was_routed(cluster: SimulatedCluster) -> None:
    advice = BalanceActions(cluster.loop).advise()
    assert isinstance(advice, str)
    assert json.loads(advice)["recommendation"] in ("leave", "move", "copies")
    idle = SimulatedCluster(steady(1.5), MANUAL)
    idle.steps = 0
    idle.run(3)
    refusal = BalanceActions(idle.loop).advise()
    assert isinstance(refusal, BalanceRefusal)
    assert refusal.kind == "precondition"


def test_what_other_models_routed_is_no_advice(cluster: SimulatedCluster) -> None:
    """Reports of a router that is still of another configuration are left out, not a fault."""
    odd = replace(demand(steady(1.5)(0.0)), layers=(7, 8, 9))
    cluster.board.note_load(report(odd), 60.0)
    cluster.run(5)
    assert isinstance(BalanceActions(cluster.loop).advise(), str)
