"""Traffic as the gate would route it, from seeded weights of the experts, and the reports that a router makes of it.

L MoE layers, E experts, T tokens, K experts per token.
"""

import numpy as np
from numpy.typing import NDArray

from experts.costs import ShardCosts
from experts.demand import Demand, RoutedBatch, RoutedLoad

EXPERTS_PER_TOKEN = 4


def zipf(layers: int, experts: int, exponent: float, seed: int = 0) -> NDArray[np.float64]:
    """Weights of experts that fall by a power of their rank, each layer in an order of its own; 0 is even. [L, E]"""
    random = np.random.default_rng(seed)
    weights_E = np.arange(1, experts + 1) ** -float(exponent)
    return np.stack([random.permutation(weights_E / weights_E.sum()) for _ in range(layers)])


def batch(weights_LE: NDArray[np.float64], tokens: int, random: np.random.Generator) -> RoutedBatch:
    """One step: for each token and layer K different experts, drawn by their weights."""
    layers, experts = weights_LE.shape
    # The K largest of log-weights with Gumbel noise are a draw without replacement.
    noisy_LTE = np.log(weights_LE)[:, None] + random.gumbel(size=(layers, tokens, experts))
    return RoutedBatch(np.argsort(-noisy_LTE, axis=2)[:, :, :EXPERTS_PER_TOKEN].astype(np.int16))


def demand(
    weights_LE: NDArray[np.float64], steps: int = 8, tokens: int = 16, seconds: float = 5.0, seed: int = 0
) -> Demand:
    """What was routed in some steps, each of which is in the sample."""
    random = np.random.default_rng(seed)
    layers, experts = weights_LE.shape
    batches = tuple(batch(weights_LE, tokens, random) for _ in range(steps))
    tokens_LE = np.zeros((layers, experts), np.int64)
    for one in batches:
        for layer in range(layers):
            tokens_LE[layer] += np.bincount(one.expert_ids_LTK[layer].ravel(), minlength=experts)
    return Demand(tuple(range(layers)), tokens_LE, seconds, batches)


def report(routed: Demand, router: str = "r", epoch: int = 1, costs: ShardCosts | None = None) -> RoutedLoad:
    """A router's report of it."""
    return RoutedLoad(router, epoch, routed, costs=costs)
