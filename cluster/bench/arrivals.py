"""When requests arrive."""

import math
from collections.abc import Iterator
from random import Random


def arrival_gaps(rate: float, burstiness: float, seed: int) -> Iterator[float]:
    """Yield seconds between arrivals without end, `1 / rate` on average.

    The gaps have a gamma distribution of shape `burstiness`: 1 makes a Poisson process, less makes bursts, more makes
    them even, infinity all alike. A rate of infinity lets all requests arrive at once.

    Args:
        rate: requests/s, over 0.
        burstiness: over 0.
        seed: the same seed yields the same gaps.
    """
    random = Random(f"{seed} arrivals")
    mean = 0.0 if math.isinf(rate) else 1.0 / rate
    even = mean == 0.0 or math.isinf(burstiness)
    while True:
        yield mean if even else random.gammavariate(burstiness, mean / burstiness)
