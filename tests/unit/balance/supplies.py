"""Demands and supplies for the planner's tests, drawn by hypothesis or made."""

import numpy as np
from hypothesis import strategies as st

from cluster.balance.supply import Supply
from experts.costs import ShardCosts, equal_costs
from experts.demand import Demand, RoutedBatch
from experts.placement import Placement


def demand_of_counts(tokens_LE: np.ndarray) -> Demand:
    """Counts without a sample; the layers are numbered 1, 3, 5 ..."""
    return Demand(tuple(range(1, 2 * len(tokens_LE), 2)), np.asarray(tokens_LE, np.int64), 60.0)


def supply_of(shards: int, slots: int, copies: int = 1, nodes: int = 1) -> Supply:
    """Equal shards, dealt to nodes."""
    names = tuple(f"n{shard % nodes}" for shard in range(shards))
    return Supply(np.full(shards, slots), equal_costs(shards), names, copies, expert_bytes=1000)


@st.composite
def demands(draw: st.DrawFn, layers: int, experts: int) -> Demand:
    """Skewed counts, and sometimes a few steps; sometimes nothing was routed."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    heat_LE = random.permuted(np.tile(np.arange(1.0, experts + 1) ** -draw(st.floats(0, 2)), (layers, 1)), axis=1)
    tokens_LE = random.poisson(heat_LE * draw(st.sampled_from([0, 3, 1000])))
    steps = [
        RoutedBatch(random.integers(-1, experts, (layers, draw(st.integers(1, 9)), 2)).astype(np.int16))
        for _ in range(draw(st.integers(0, 3)))
    ]
    return Demand(tuple(range(1, 2 * layers, 2)), tokens_LE, 60.0, tuple(steps))


@st.composite
def supplies(draw: st.DrawFn, layers: int, experts: int, roomy: bool = False) -> Supply:
    """Shards of which some are to hold nothing, that can hold what they must; `roomy`: and all of it on each."""
    shards = draw(st.integers(1, 8))
    copies = draw(st.integers(1, min(3, shards)))
    usable = draw(st.permutations(range(shards)))[: draw(st.integers(copies, shards))]
    least = -(-layers * experts * copies // len(usable))
    slots_S = np.zeros(shards, np.int64)
    for shard in usable:
        slots_S[shard] = layers * experts if roomy else least + draw(st.integers(0, 2 * layers))
    speeds = [draw(st.floats(0.5, 2.0)) for _ in range(shards)]
    costs = equal_costs(shards)
    costs = ShardCosts(costs.call_us_S, costs.expert_us_S * speeds, costs.pair_us_S * speeds)
    nodes = tuple(draw(st.sampled_from("abcd")) for _ in range(shards))
    return Supply(slots_S, costs, nodes, copies, expert_bytes=1000)


def used(placement: Placement, layers: tuple[int, ...]) -> np.ndarray:
    """The copies that each shard holds in all of the layers, [S]."""
    used_S = np.zeros(placement.shards, np.int64)
    for layer in layers:
        for shards in placement.layer(layer).holders:
            used_S[list(shards)] += 1
    return used_S
