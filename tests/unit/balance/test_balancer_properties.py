"""Whatever is routed, and however moves end: what the balancer never does."""

import warnings
from dataclasses import replace
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router_service.protocol.balance import PlanReport
from tests.support.routed_traffic import zipf

with warnings.catch_warnings(action="ignore"):  # Serve's own, of pydantic
    from tests.unit.balance.simulated_cluster import CONFIG, EXPERTS, LAYERS, SimulatedCluster

QUICK = replace(CONFIG, interval_seconds=5.0, window_seconds=20.0, cooldown_seconds=15.0, rounds=1, least_gain=0.01)
PHASES = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from([0.0, 0.8, 1.5, 2.5]), st.integers(0, 3)), min_size=1, max_size=4
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PHASES, st.integers(1, 10), st.lists(st.booleans(), max_size=4))
def test_moves_keep_their_distance_and_every_expert_its_place(
    phases: list[tuple[int, float, int]], prepare_s: int, fails: list[bool]
) -> None:
    cluster = SimulatedCluster(lambda _: zipf(LAYERS, EXPERTS, 0.0), QUICK, prepare_s=float(prepare_s))
    room = cluster.loop.outlook
    for length, exponent, seed in phases:
        weights = zipf(LAYERS, EXPERTS, exponent, seed)
        cluster.traffic = lambda _, weights=weights: weights  # type: ignore[misc]
        cluster.fails = fails[len(cluster.moved)] if len(cluster.moved) < len(fails) else False
        cluster.run(15 * length)
        held = [cluster.current.layer(layer) for layer in range(LAYERS)]
        assert all(layer.experts == EXPERTS and layer.copies >= 1 for layer in held)
        assert sum(cluster.told.replicas_S) <= room.supply().slots_S.sum()
    over = [one for one in cluster.moved if one.ended]
    assert all(_far_apart(sooner, later) for sooner, later in pairwise(over))
    assert cluster.told.copies_moved == sum(one.copies_added for one in cluster.told.plans if one.state == "done")


def _far_apart(sooner: PlanReport, later: PlanReport) -> bool:
    """Whether the cool-down has passed between two plans; the steps of one plan follow each other at once."""
    goes_on = sooner.state == "done" and sooner.reason.endswith("in steps")
    return goes_on or later.began >= sooner.ended + QUICK.cooldown_seconds
