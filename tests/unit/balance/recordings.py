"""Recordings of routed traffic: L layers, E experts, S shards, T tokens, K experts per token."""

import numpy as np

from cluster.balance.judging.recording import Recording
from cluster.balance.supply import Supply
from experts.costs import equal_costs
from experts.demand import Demand, RoutedBatch
from experts.placement import LayerPlacement, Placement

LAYERS = (1, 2)
EXPERTS = 8
SHARDS = 2


def routed(seed: int = 0, steps: int = 4, tokens: int = 32, heat: float = 0.0) -> Demand:
    """A window of some steps; expert 0 gets more with `heat`."""
    random = np.random.default_rng(seed)
    share_E = np.array([1.0 + heat, *[1.0] * (EXPERTS - 1)])
    ids_NLTK = np.array(
        [
            [
                [random.choice(EXPERTS, 2, replace=False, p=share_E / share_E.sum()) for _ in range(tokens)]
                for _ in LAYERS
            ]
            for _ in range(steps)
        ],
        dtype=np.int16,
    )
    tokens_LE = np.array([np.bincount(ids_NLTK[:, place].ravel(), minlength=EXPERTS) for place in range(len(LAYERS))])
    return Demand(LAYERS, tokens_LE, 5.0, tuple(RoutedBatch(ids_LTK) for ids_LTK in ids_NLTK))


def recording(windows: int = 4, heat: float = 0.0) -> Recording:
    """A recording of two shards, each with half of the experts and room for all."""
    layer = LayerPlacement(tuple((expert * SHARDS // EXPERTS,) for expert in range(EXPERTS)))
    current = Placement(SHARDS, layer, dict.fromkeys(LAYERS, layer))
    slots_S = np.full(SHARDS, len(LAYERS) * EXPERTS)
    supply = Supply(slots_S, equal_costs(SHARDS), ("a", "b"), 1, 1 << 20)
    demands = tuple(routed(seed, heat=heat) for seed in range(windows))
    return Recording(demands, supply, current, LAYERS)
