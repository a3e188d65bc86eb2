"""Histograms as plain arrays: all observations of a step are added in one vectorized operation."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from router_service.protocol.messages import Sample

SECONDS = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
TOKENS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
RATIOS = (1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0)

# Every third bound of SECONDS: one for each decade from 0.1 ms on.
DECADES = SECONDS[2::3]
# Samples that all phase histograms may add to a scrape; each also has one for +Inf, its count and its sum.
PHASE_SAMPLES = 3500


def phase_bounds(histograms: int) -> tuple[float, ...]:
    """The finest bounds with which so many histograms fit: all, decades, or none (count and sum only)."""
    for bounds in (SECONDS, DECADES):
        if histograms * (len(bounds) + 3) <= PHASE_SAMPLES:
            return bounds
    return ()


class HistogramArray:
    """`rows` histograms with common bucket bounds."""

    def __init__(self, bounds: Sequence[float], rows: int) -> None:
        self.bounds = tuple(bounds)
        self._bounds = np.array(bounds)
        self.counts = np.zeros((rows, len(bounds) + 1), dtype=np.int64)
        self.sums = np.zeros(rows)

    def observe(self, rows_N: NDArray[np.int64], values_N: NDArray[np.float64]) -> None:
        """Add value n to histogram `rows_N[n]`."""
        rows, buckets = self.counts.shape
        cells_N = rows_N * buckets + np.searchsorted(self._bounds, values_N)
        self.counts += np.bincount(cells_N, minlength=rows * buckets).reshape(rows, buckets)
        self.sums += np.bincount(rows_N, values_N, rows)

    def samples(
        self, name: str, row: int, labels: dict[str, str], bounds: Sequence[float] | None = None
    ) -> Iterator[Sample]:
        """The exposition of one histogram: cumulative buckets, count and sum; only some of its `bounds` where given."""
        cumulative = np.cumsum(self.counts[row]).tolist()
        shown = [number for number, bound in enumerate(self.bounds) if bounds is None or bound in bounds]
        for bucket in shown:
            yield Sample(f"{name}_bucket", {**labels, "le": str(self.bounds[bucket])}, cumulative[bucket])
        yield Sample(f"{name}_bucket", {**labels, "le": "+Inf"}, cumulative[-1])
        yield Sample(f"{name}_count", labels, cumulative[-1])
        yield Sample(f"{name}_sum", labels, float(self.sums[row]))
