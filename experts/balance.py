"""How evenly tokens spread over experts and shards. Pure functions of counts.

L MoE layers, E experts, S shards. Several definitions are in use, each here under its own name. Each layer is measured
by itself before layers are averaged: summing first would let an uneven layer hide behind another.
"""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

# With an average of 32 tokens, an expert that is chosen as often as any misses all of them with probability e^-32.
DEAD_AFTER_TOKENS_PER_EXPERT = 32


def max_over_mean(counts_LN: Counts, of_L: Counts | None = None) -> Floats:
    """Max / mean of each layer, [L]: 1 is perfect; 1 where nothing was counted.

    `of_L` says over how many the mean is, where not all N can have a share, as a shard without experts of the layer.
    """
    mean_L = counts_LN.mean(axis=1) if of_L is None else counts_LN.sum(axis=1) / np.maximum(of_L, 1)
    ratio_L: Floats = np.divide(counts_LN.max(axis=1), mean_L, out=np.ones(len(counts_LN)), where=mean_L > 0)
    return ratio_L


def mean_max_violation(counts_LE: Counts) -> float:
    """Mean over layers of (max - mean) / mean over experts: MaxVio of Wang et al. 2024 (arXiv 2408.15664)."""
    return float((max_over_mean(counts_LE) - 1).mean())


def balancedness(ratios_L: Floats) -> float:
    """Mean over layers of mean / max over shards, SGLang's measure, from each layer's max / mean: 1 is perfect."""
    return float((1 / ratios_L).mean())


def entropy_ratio(counts_LE: Counts) -> Floats:
    """Entropy of each layer's expert load over its maximum log(E), [L]; 1 where nothing was counted."""
    totals_L1 = counts_LE.sum(axis=1, keepdims=True)
    share_LE = np.divide(counts_LE, totals_L1, out=np.zeros(counts_LE.shape), where=totals_L1 > 0)
    logs_LE = np.log(share_LE, out=np.zeros_like(share_LE), where=share_LE > 0)
    ratio_L = -(share_LE * logs_LE).sum(axis=1) / np.log(max(2, counts_LE.shape[1]))
    return np.where(totals_L1[:, 0] > 0, ratio_L, 1.0)


def dead_experts(counts_LE: Counts) -> Counts | None:
    """Experts of each layer without a token, [L]; None before each layer has seen 32 tokens per expert on average."""
    experts = counts_LE.shape[1]
    if counts_LE.sum(axis=1).min() < DEAD_AFTER_TOKENS_PER_EXPERT * experts:
        return None
    dead_L: Counts = (counts_LE == 0).sum(axis=1)
    return dead_L
