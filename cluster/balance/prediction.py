"""How long the slowest shard of a layer's call takes under a placement: what was routed is replayed.

N sampled steps, L MoE layers, E experts, S shards.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.balance.moves import holds
from experts.costs import ShardCosts
from experts.demand import Demand
from experts.placement import LayerPlacement, Placement

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Replay:
    """Means over the layer calls: microseconds of the slowest shard, of the mean of the shards that are held to.

    `imbalance` is the largest over the mean of the (token, expert) pairs of those shards: 1 is perfect.
    """

    slowest_us: float
    mean_us: float
    imbalance: float
    calls: int


def replay(demand: Demand, placement: Placement, costs: ShardCosts) -> Replay:
    """Replay the sampled steps of `demand`; its counts as one step of each layer where there is no sample.

    Returns:
        Zeros, and an imbalance of 1, where nothing was routed.
    """
    tokens_NLE = tokens_of_batches(demand)
    slowest_us, mean_us, imbalance = [], [], []
    for place, layer in enumerate(demand.layers):
        calls_NE = tokens_NLE[:, place][tokens_NLE[:, place].any(axis=1)]
        if not len(calls_NE):
            continue
        experts_NS, pairs_NS = _asked(calls_NE, placement.layer(layer), placement.shards)
        held_S = holds(placement.layer(layer), placement.shards).any(axis=0)
        times_NS = _times(costs, experts_NS, pairs_NS)[:, held_S]
        slowest_us.append(times_NS.max(axis=1))
        mean_us.append(times_NS.mean(axis=1))
        imbalance.append(pairs_NS[:, held_S].max(axis=1) / pairs_NS[:, held_S].mean(axis=1))
    if not slowest_us:
        return Replay(0.0, 0.0, 1.0, 0)
    slowest, mean, ratio = (np.concatenate(parts) for parts in (slowest_us, mean_us, imbalance))
    return Replay(float(slowest.mean()), float(mean.mean()), float(ratio.mean()), len(slowest))


def predicted_gain(demand: Demand, old: Placement, new: Placement, costs: ShardCosts) -> float:
    """Return the part of the slowest shard's time that `new` saves: 0.2 is 20%, below 0 it is slower."""
    before = replay(demand, old, costs).slowest_us
    return 1.0 - replay(demand, new, costs).slowest_us / before if before else 0.0


def tokens_of_batches(demand: Demand) -> Counts:
    """Return the tokens of each expert in each sampled step, [N, L, E]; the counts as one step if there is no sample."""
    layers, experts = demand.tokens_LE.shape
    if not demand.batches:
        return demand.tokens_LE[None]
    offsets_L = np.arange(layers)[:, None] * (experts + 1)
    steps = []
    for batch in demand.batches:
        keys = batch.expert_ids_LTK.reshape(layers, -1).astype(np.int64) + 1 + offsets_L
        steps.append(np.bincount(keys.ravel(), minlength=layers * (experts + 1)).reshape(layers, -1)[:, 1:])
    return np.stack(steps)


def _asked(calls_NE: Counts, layer: LayerPlacement, shards: int) -> tuple[Floats, Floats]:
    """The experts that each shard touches and the pairs it computes in each step, [N, S]: copies share evenly."""
    held_ES = holds(layer, shards)
    share_ES = held_ES / held_ES.sum(axis=1, keepdims=True)
    return (calls_NE > 0) @ share_ES, calls_NE @ share_ES


def _times(costs: ShardCosts, experts_NS: Floats, pairs_NS: Floats) -> Floats:
    """The time at each shard in each step; 0 where it is not asked."""
    times_NS: Floats = costs.call_us_S + costs.expert_us_S * experts_NS + costs.pair_us_S * pairs_NS
    return np.where(pairs_NS > 0, times_NS, 0.0)
