"""Loads of experts to compare placements on, [L, E]."""

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.balance.recordings import DOMAINS, recorded

# The example of EPLB's README: two layers, 12 experts in 4 groups, 16 copies on 8 GPUs in 2 nodes.
README_MATRIX = np.array(
    [
        [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
        [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
    ]
)
PAIRS = 1_000_000


def zipf(exponent: float, layers: int, experts: int = 256, seed: int = 0) -> NDArray[np.int64]:
    """The r-th hottest expert of each layer gets 1 / r^exponent; which one that is, is drawn."""
    heat_E = np.arange(1, experts + 1) ** -exponent
    random = np.random.default_rng(seed)
    return np.stack([random.permutation(np.round(PAIRS * heat_E / heat_E.sum())) for _ in range(layers)]).astype(int)


def recordings() -> dict[str, NDArray[np.int64]]:
    """What the bundled model routed of each domain's text."""
    return {domain: recorded(domain).tokens_LE for domain in DOMAINS}
