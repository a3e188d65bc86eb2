"""Random numbers that are a hash of (seed, position), so that any router draws the same for a request."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]


def uniform(seeds: Sequence[int], positions: Sequence[int]) -> NDArray[np.float64]:
    """Numbers in [0, 1), one for each seed and position: two rounds of splitmix64 (Steele et al. 2014).

    Args:
        seeds: 0 to 2^64 - 1.
        positions: of the tokens to be drawn, 0 to 2^64 - 1.
    """
    hashed = _splitmix64(_splitmix64(np.array(seeds, dtype=np.uint64)) ^ np.array(positions, dtype=np.uint64))
    return hashed / 2.0**64


def _splitmix64(value: Words) -> Words:
    # Unsigned arrays wrap around silently, which is what the hash wants.
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    # 53 bits, which a float holds exactly: more could round up to 1.
    return (value ^ (value >> np.uint64(31))) >> np.uint64(11) << np.uint64(11)
