"""How long the slowest shard of a layer's call takes under a placement: what was routed is replayed.

In each step the copies are chosen as routers choose them (`experts.division.chooser`).
N steps, L MoE layers, E experts, S shards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.balance.moves import holds
from experts.costs import ShardCosts
from experts.demand import Demand
from experts.division.chooser import Chooser
from experts.division.choosing import NOBODY, Choice
from experts.placement import LayerPlacement, Placement

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
MOST_PAIRS = 65536  # of a layer when counts are replayed: more would only take time


@dataclass(frozen=True, slots=True)
class Replay:
    """Means over the layer calls: microseconds of the slowest shard, and of the mean of the shards that hold the layer.

    `imbalance` is the most (token, expert) pairs of those shards over their mean: 1 is perfect.
    """

    slowest_us: float
    mean_us: float
    imbalance: float
    calls: int


@dataclass(frozen=True, slots=True)
class LayerReplay:
    """One layer's calls, [N]: the slowest shard's time, the mean of the shards' that hold it, most over mean pairs."""

    slowest_us_N: Floats
    mean_us_N: Floats
    imbalance_N: Floats


class Replayer:
    """Replays the sampled steps of `demand` under placements; its counts as one step where there is no sample.

    Args:
        steps: how many of the sampled steps to replay, evenly chosen; all by default.
        even: split an expert's pairs evenly over its copies instead of choosing them: what an algorithm without a
            choice by batch would get.
    """

    def __init__(self, demand: Demand, costs: ShardCosts, steps: int | None = None, even: bool = False) -> None:
        self._costs, self._even = costs, even
        self._chooser = Chooser(costs)
        self._tokens_NLE = thinned(tokens_of_batches(demand), steps)

    def layer(self, place: int, layer: LayerPlacement) -> LayerReplay:
        """Replay the layer at `place` in the demand; a step that asks nothing of it is no call."""
        shards = len(self._costs.call_us_S)
        calls_NE = self._tokens_NLE[:, place]
        calls_NE = calls_NE[calls_NE.any(axis=1)]
        if self._even or not layer.shared:
            experts_NS, pairs_NS = _evenly(calls_NE, layer, shards)
        else:
            chosen = [self._chosen(tokens_E, layer, shards) for tokens_E in calls_NE]
            experts_NS, pairs_NS = np.array(chosen, np.float64).reshape(-1, 2, shards).transpose(1, 0, 2)
        held_S = holds(layer, shards).any(axis=0)
        times_NS, pairs_NS = self._times(experts_NS, pairs_NS)[:, held_S], pairs_NS[:, held_S]
        return LayerReplay(times_NS.max(axis=1), times_NS.mean(axis=1), pairs_NS.max(axis=1) / pairs_NS.mean(axis=1))

    def slowest_L(self, layers: Sequence[LayerPlacement]) -> Floats:
        """The mean time of the slowest shard in each layer; 0 where nothing was routed."""
        times = [self.layer(place, layer).slowest_us_N for place, layer in enumerate(layers)]
        return np.array([time_N.mean() if len(time_N) else 0.0 for time_N in times])

    def _chosen(self, tokens_E: Counts, layer: LayerPlacement, shards: int) -> tuple[Counts, Counts]:
        """The experts that each shard touches and its pairs, [S]."""
        ids = np.repeat(np.arange(len(tokens_E)), tokens_E)[None]
        choice = self._chooser.choose(ids, layer, [0] * shards)
        return (_touched(choice, shards), _pairs(choice, tokens_E, shards)) if choice else _nothing(shards)

    def _times(self, experts_NS: Floats, pairs_NS: Floats) -> Floats:
        """The time at each shard in each step; 0 where it is not asked."""
        costs = self._costs
        times_NS: Floats = costs.call_us_S + costs.expert_us_S * experts_NS + costs.pair_us_S * pairs_NS
        return np.where(pairs_NS > 0, times_NS, 0.0)


def replay(demand: Demand, placement: Placement, costs: ShardCosts, *, even: bool = False) -> Replay:
    """Replay the sampled steps of `demand`, or its counts, under a placement; see `Replayer`.

    Returns:
        Zeros, and an imbalance of 1, where nothing was routed.
    """
    replayer = Replayer(demand, costs, even=even)
    layers = [replayer.layer(place, placement.layer(layer)) for place, layer in enumerate(demand.layers)]
    slowest_us = np.concatenate([layer.slowest_us_N for layer in layers] or [np.zeros(0)])
    if not len(slowest_us):
        return Replay(0.0, 0.0, 1.0, 0)
    mean_us = np.concatenate([layer.mean_us_N for layer in layers])
    imbalance = np.concatenate([layer.imbalance_N for layer in layers])
    return Replay(float(slowest_us.mean()), float(mean_us.mean()), float(imbalance.mean()), len(slowest_us))


def predicted_gain(demand: Demand, old: Placement, new: Placement, costs: ShardCosts) -> float:
    """Return the part of the slowest shard's time that `new` saves: 0.2 is 20%, below 0 it is slower."""
    before = replay(demand, old, costs).slowest_us
    return 1.0 - replay(demand, new, costs).slowest_us / before if before else 0.0


def tokens_of_batches(demand: Demand) -> Counts:
    """Return the tokens of each expert in each sampled step, [N, L, E]; the counts as one step if there is no sample.

    Counts of more than `MOST_PAIRS` are scaled down to as many.
    """
    layers, experts = demand.tokens_LE.shape
    if not demand.batches:
        scale_L = np.minimum(1.0, MOST_PAIRS / np.maximum(demand.tokens_LE.sum(axis=1), 1))
        scaled_LE: Counts = np.ceil(demand.tokens_LE * scale_L[:, None]).astype(np.int64)
        return scaled_LE[None]
    offsets_L = np.arange(layers)[:, None] * (experts + 1)
    steps = []
    for batch in demand.batches:
        keys = batch.expert_ids_LTK.reshape(layers, -1).astype(np.int64) + 1 + offsets_L
        steps.append(np.bincount(keys.ravel(), minlength=layers * (experts + 1)).reshape(layers, -1)[:, 1:])
    return np.stack(steps)


def thinned(tokens_NLE: Counts, most: int | None) -> Counts:
    """Return at most so many of the steps, evenly chosen."""
    if most is None or len(tokens_NLE) <= most:
        return tokens_NLE
    thinned_NLE: Counts = tokens_NLE[np.linspace(0, len(tokens_NLE) - 1, most).astype(int)]
    return thinned_NLE


def _evenly(calls_NE: Counts, layer: LayerPlacement, shards: int) -> tuple[Floats, Floats]:
    """The experts that each shard touches and the pairs it computes in each step, [N, S]: copies share evenly.

    On the average over whose turn it is: of three copies for two pairs each is touched in two of three cases.
    """
    held_ES = holds(layer, shards).astype(np.float64)
    share_NE = calls_NE / held_ES.sum(axis=1)
    return np.minimum(share_NE, 1.0) @ held_ES, share_NE @ held_ES


def _touched(choice: Choice, shards: int) -> Counts:
    """The experts that each shard touches, [S]."""
    whole_E = choice.shard_of_E != NOBODY
    whole_E[[split.expert for split in choice.splits]] = False
    touched_S: Counts = np.bincount(choice.shard_of_E[whole_E], minlength=shards)
    touched_S += np.bincount([split.shard for split in choice.splits], minlength=shards)
    return touched_S


def _pairs(choice: Choice, tokens_E: Counts, shards: int) -> Counts:
    """The pairs that each shard computes, [S]."""
    whole_E = choice.shard_of_E != NOBODY
    whole_E[[split.expert for split in choice.splits]] = False
    pairs_S = np.bincount(choice.shard_of_E[whole_E], tokens_E[whole_E], minlength=shards)
    split_S = np.bincount([s.shard for s in choice.splits], [s.pairs for s in choice.splits], minlength=shards)
    return (pairs_S + split_S).astype(np.int64)


def _nothing(shards: int) -> tuple[Counts, Counts]:
    """What shards do that nobody asks."""
    return np.zeros(shards, np.int64), np.zeros(shards, np.int64)
