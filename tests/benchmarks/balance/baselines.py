"""Placements by others' rules, and what none can be better than: for comparison alone. E experts, S shards.

`eplb` is written from the description of DeepSeek's Expert Parallelism Load Balancer (its README and the
DeepSeek-V3 report, arXiv:2412.19437): so many redundant experts, one at a time to the expert whose copies bear most;
the copies packed heaviest first onto the lightest GPU with room, each GPU with as many. Hierarchically, expert groups
are packed onto nodes, copies are made within a node, and packed onto its GPUs. A GPU may get two copies of an expert.
"""

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Held = list[list[int]]  # the experts of each shard; one may be there twice


def eplb(load_E: Floats, copies: int, shards: int, groups: int = 1, nodes: int = 1) -> Held:
    """EPLB: hierarchical if the groups can be divided among nodes, else global.

    Args:
        copies: of all experts together, as many for each shard.
    """
    if groups % nodes:
        groups = nodes = 1
    size = len(load_E) // groups
    load_of_groups = load_E.reshape(groups, size).sum(axis=1)
    held: Held = []
    for group_list in packed(load_of_groups, nodes, groups // nodes):
        experts = [group * size + step for group in group_list for step in range(size)]
        held += _node(load_E, experts, copies // nodes, shards // nodes)
    return held


def _node(load_E: Floats, experts: Sequence[int], copies: int, shards: int) -> Held:
    """Copy and pack the experts of one node."""
    counts = replicated(load_E[list(experts)], copies)
    slots = [expert for expert, count in zip(experts, counts, strict=True) for _ in range(count)]
    shares = np.array([load_E[e] / count for e, count in zip(experts, counts, strict=True) for _ in range(count)])
    return [[slots[place] for place in pack] for pack in packed(shares, shards, copies // shards)]


def replicated(load_E: Floats, copies: int) -> list[int]:
    """How often each expert is held: each further time the one whose copies bear most."""
    counts = [1] * len(load_E)
    heap = [(-float(load), expert) for expert, load in enumerate(load_E)]
    heapq.heapify(heap)
    for _ in range(copies - len(load_E)):
        _, expert = heap[0]
        counts[expert] += 1
        heapq.heapreplace(heap, (-float(load_E[expert]) / counts[expert], expert))
    return counts


def packed(weights: Floats, packs: int, size: int) -> list[list[int]]:
    """Heaviest first, each into the lightest of the packs that are not full."""
    heap, result = [(0.0, pack) for pack in range(packs)], [list[int]() for _ in range(packs)]
    for item in np.argsort(-weights, kind="stable").tolist():
        total, pack = heapq.heappop(heap)
        result[pack].append(item)
        if len(result[pack]) < size:
            heapq.heappush(heap, (total + float(weights[item]), pack))
    return result


def lpt(load_E: Floats, shards: int) -> Held:
    """Graham's rule without copies and without a limit on how many experts a shard holds."""
    return packed(load_E, shards, len(load_E))


def bound(load_E: Floats, copies: int, shards: int) -> float:
    """What no placement's fullest shard is below, however its experts' loads are shared: max / mean.

    The mean, and without copies enough the heaviest expert divided among as many shards as all further copies and its
    own allow: an expert with n copies leaves some shard 1/n of it.
    """
    counts = replicated(load_E, copies)
    heaviest = max(float(load) / min(count, shards) for load, count in zip(load_E, counts, strict=True))
    return max(1.0, heaviest * shards / float(load_E.sum()))
