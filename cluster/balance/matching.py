"""Naming the shards of a new layout so that what they are to hold is most like what they hold now. S shards."""

import numpy as np
from numpy.typing import NDArray

from cluster.balance.layout import Bools, Terrain

Ints = NDArray[np.int64]


def match(terrain: Terrain, held_LES: Bools, now_LES: Bools) -> None:
    """Exchange whole shards' experts within each layer, so that fewer must be loaded, wherever that is free.

    Shards can be exchanged that are as fast as each other, hold as many experts of the layer, and are on one node, or
    where copies need not be on different ones. Pairs with most in common first: not always the fewest loads, but the
    plan is compared with what is now in any case.
    """
    nodes_S = terrain.node_S if terrain.apart > 1 else np.zeros_like(terrain.node_S)
    for layer, now_ES in enumerate(now_LES):
        held_ES = held_LES[layer]
        kinds = np.stack([terrain.slow_S, nodes_S, held_ES.sum(axis=0)], axis=1)
        _, kind_S = np.unique(kinds, axis=0, return_inverse=True)
        target_S = _targets(held_ES, now_ES, kind_S.reshape(-1))
        held_LES[layer][:, target_S] = held_ES.copy()


def _targets(held_ES: Bools, now_ES: Bools, kind_S: Ints) -> Ints:
    """The shard that each one's experts are to go to: a permutation within the kinds."""
    sources, targets, common = _in_common(held_ES, now_ES)
    alike = kind_S[sources] == kind_S[targets]
    sources, targets, common = sources[alike], targets[alike], common[alike]
    order = np.argsort(-common, kind="stable")
    target_S = np.full(len(kind_S), -1)
    taken: set[int] = set()
    for source, target in zip(sources[order].tolist(), targets[order].tolist(), strict=True):
        if target_S[source] < 0 and target not in taken:
            target_S[source] = target
            taken.add(target)
    for kind in np.unique(kind_S[target_S < 0]):
        left = [int(shard) for shard in np.flatnonzero(kind_S == kind) if int(shard) not in taken]
        target_S[(kind_S == kind) & (target_S < 0)] = left
    return target_S


def _in_common(held_ES: Bools, now_ES: Bools) -> tuple[Ints, Ints, Ints]:
    """The pairs of shards of which the first is to hold what the second holds, and how many such experts they have."""
    expert_N, source_N = np.nonzero(held_ES)
    now_expert, now_shard = np.nonzero(now_ES)
    count_E = np.bincount(now_expert, minlength=len(held_ES))
    first_E = np.cumsum(count_E) - count_E
    repeat_N = count_E[expert_N]
    step = np.arange(int(repeat_N.sum())) - np.repeat(np.cumsum(repeat_N) - repeat_N, repeat_N)
    targets = now_shard[np.repeat(first_E[expert_N], repeat_N) + step]
    keys, common = np.unique(np.repeat(source_N, repeat_N) * held_ES.shape[1] + targets, return_counts=True)
    return keys // held_ES.shape[1], keys % held_ES.shape[1], common
