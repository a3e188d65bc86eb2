"""What was routed, as time: what each expert costs a layer's call, and how slow each shard is. L layers, E experts."""

import numpy as np
from numpy.typing import NDArray

from cluster.balance.prediction import tokens_of_batches
from experts.costs import ShardCosts
from experts.demand import Demand

Floats = NDArray[np.float64]


def weights(demand: Demand, costs: ShardCosts, usable_S: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the microseconds that an expert costs a layer's call on a shard of mean speed, and the shards' slowness.

    A call costs for reading an expert's weights, which decoding is bound by, and for its pairs, which prompts are
    bound by. The sampled steps are too few to say how often each expert is touched: that follows from its pairs in the
    whole window, as if tokens chose by themselves, scaled to what all experts of the layer are touched in the sample.
    A shard's slowness is its time for the average of all over the mean shard's.

    Returns:
        weight_LE, and slow_S: 1 for shards that hold nothing.
    """
    tokens_NLE = tokens_of_batches(demand)
    pairs_L = tokens_NLE.sum(axis=2).mean(axis=0)
    pairs_LE = demand.tokens_LE * (pairs_L / np.maximum(demand.tokens_LE.sum(axis=1), 1))[:, None]
    touched_LE = -np.expm1(-pairs_LE)
    touched_L = (tokens_NLE > 0).mean(axis=0).sum(axis=1) / np.maximum(touched_LE.sum(axis=1), 1e-9)
    touched_LE = np.minimum(touched_LE * touched_L[:, None], 1.0)
    expert_us, pair_us = float(costs.expert_us_S[usable_S].mean()), float(costs.pair_us_S[usable_S].mean())
    time_S = costs.expert_us_S * max(touched_LE.sum(), 1e-9) + costs.pair_us_S * pairs_LE.sum()
    slow_S: Floats = np.where(usable_S, time_S / time_S[usable_S].mean(), 1.0)
    return expert_us * touched_LE + pair_us * pairs_LE, slow_S
