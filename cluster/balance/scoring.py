"""How long each layer's slowest shard takes in the sampled steps under a layout: quickly, for many layouts.

Copies share what their expert costs evenly; `cluster.balance.prediction` replays the real choice of copies.
N steps, L layers, E experts, S shards.
"""

from dataclasses import dataclass

import numpy as np

from cluster.balance.layout import Bools, Floats
from cluster.balance.prediction import tokens_of_batches
from experts.costs import ShardCosts
from experts.demand import Demand

MOST_STEPS = 32  # of the sample, evenly chosen: more change the mean little and take time


@dataclass(frozen=True, slots=True)
class Sample:
    """What each expert costs a shard of mean speed in each step, `cost_NLE`, and its mean, `weight_LE`; microseconds."""

    cost_NLE: Floats
    weight_LE: Floats

    def slowest_L(self, held_LES: Bools, slow_S: Floats) -> Floats:
        """The mean time of the slowest shard in each layer."""
        share_LES = held_LES / np.maximum(held_LES.sum(axis=2, keepdims=True), 1)
        times_LNS = np.matmul(self.cost_NLE.transpose(1, 0, 2), share_LES) * slow_S
        slowest_L: Floats = times_LNS.max(axis=2).mean(axis=1)
        return slowest_L


def sample_of(demand: Demand, costs: ShardCosts, usable_S: Bools) -> Sample:
    """Return what was routed as time: of pairs and of weights that are read, so that it covers decoding and prompts.

    How often an expert is touched is known from the sample alone; its pairs from the whole window, which is longer.
    """
    tokens_NLE = tokens_of_batches(demand)
    tokens_NLE = tokens_NLE[np.unique(np.linspace(0, len(tokens_NLE) - 1, MOST_STEPS).astype(int))].astype(np.float64)
    expert_us, pair_us = float(costs.expert_us_S[usable_S].mean()), float(costs.pair_us_S[usable_S].mean())
    cost_NLE = expert_us * (tokens_NLE > 0) + pair_us * tokens_NLE
    sampled_L, counted_L = tokens_NLE.mean(axis=0).sum(axis=1), demand.tokens_LE.sum(axis=1)
    scale_L = sampled_L / np.maximum(counted_L, 1)
    weight_LE = expert_us * (tokens_NLE > 0).mean(axis=0) + pair_us * demand.tokens_LE * scale_L[:, None]
    return Sample(cost_NLE, weight_LE)


def slowness(costs: ShardCosts, usable_S: Bools, sample: Sample, demand: Demand) -> Floats:
    """Return each usable shard's time for an average load over the mean shard's, [S]; 1 for shards that hold nothing."""
    tokens_NLE = sample.cost_NLE
    pairs = float(tokens_of_batches(demand).mean(axis=0).sum())
    touched = float((tokens_NLE > 0).mean(axis=0).sum())
    time_S = costs.expert_us_S * touched + costs.pair_us_S * pairs if pairs else costs.expert_us_S
    slow_S: Floats = np.where(usable_S, time_S / time_S[usable_S].mean(), 1.0)
    return slow_S
