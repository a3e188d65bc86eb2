"""How balanced a placement is: most over mean load of the shards, by two ways to share an expert among its copies."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SWEEPS = 400
NEAR = 1e-5


def even(load_E: Floats, held: Sequence[Sequence[int]]) -> float:
    """Copies share evenly, as EPLB counts; a shard that holds an expert twice bears two shares."""
    counts_E = np.bincount([expert for experts in held for expert in experts], minlength=len(load_E))
    loads = [sum(float(load_E[expert]) / counts_E[expert] for expert in experts) for experts in held]
    return max(loads) * len(held) / float(load_E.sum())


def best(load_E: Floats, held: Sequence[Sequence[int]]) -> float:
    """Copies share as is best, which choosing copies by batch comes to.

    Shares that make the sum of squares of the shards' loads least make the fullest shard lightest too. Expert by expert
    water is filled into its holders until nothing changes; the sum is convex, so that ends at the optimum.
    """
    holders: list[list[int]] = [[] for _ in load_E]
    for shard, experts in enumerate(held):
        for expert in sorted(set(experts)):
            holders[expert].append(shard)
    shares = [np.full(len(shards), load_E[expert] / len(shards)) for expert, shards in enumerate(holders)]
    loads_S = np.zeros(len(held))
    for expert, shards in enumerate(holders):
        loads_S[shards] += shares[expert]
    several = [expert for expert, shards in enumerate(holders) if len(shards) > 1]
    mean = float(load_E.sum()) / len(held)
    for _ in range(SWEEPS):
        change = 0.0
        for expert in several:
            shards = holders[expert]
            others = loads_S[shards] - shares[expert]
            filled = _filled(others, float(load_E[expert]))
            change = max(change, float(np.abs(filled - shares[expert]).max()))
            shares[expert] = filled
            loads_S[shards] = others + filled
        if change < NEAR * mean:
            break
    return float(loads_S.max()) / mean


def _filled(others: Floats, load: float) -> Floats:
    """What each holder gets when `load` is poured in: all that get any end at one level."""
    sorted_loads = np.sort(others)
    levels = (np.cumsum(sorted_loads) + load) / np.arange(1, len(others) + 1)
    level = levels[np.flatnonzero(levels > sorted_loads)[-1]]
    return np.maximum(level - others, 0.0)
