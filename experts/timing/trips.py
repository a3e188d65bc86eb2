"""The calls of many trips as columns, so that a few operations add them up, however many they are.

N calls, P phases, L trips that had a reply. Times in nanoseconds.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experts.timing.phase import PHASES, Phase
from experts.timing.phases import CALL, LayerTrip

Column = NDArray[np.int64]
COLUMNS = CALL.size // 8


class TripCalls:
    """The calls of `trips`, one after the other."""

    def __init__(self, trips: Sequence[LayerTrip]) -> None:
        self._trips = [trip for trip in trips if trip.packed]
        table_NC = np.frombuffer(b"".join([trip.packed for trip in self._trips]), np.int64).reshape(-1, COLUMNS)
        self.shards_N: Column = table_NC[:, 0]
        self.phases_NP: NDArray[Any] = table_NC[:, 1 : 1 + len(PHASES)]
        columns = table_NC[:, 1 + len(PHASES) :].T
        self.rows_N, self.assignments_N, *bytes_N, self._received_N, self.shared_N, self.experts_N = columns
        self.dispatch_bytes_N, self.combine_bytes_N = bytes_N
        self.own_compute_N: Column = self.phase_N(Phase.COMPUTE) - self.shared_N

    def __len__(self) -> int:
        return len(self.shards_N)

    def phase_N(self, phase: Phase) -> Column:
        """One phase of every call."""
        column_N: Column = self.phases_NP[:, phase.column]
        return column_N

    def by_shard(self, counts_N: Column, shards: int) -> Column:
        """Sum counts of calls, such as `assignments_N`, by trip and shard, [L, S]."""
        sizes_L, _ = self._sizes
        trips_N = np.repeat(np.arange(len(self._trips)), sizes_L)
        cells_N = np.bincount(trips_N * shards + self.shards_N, counts_N, len(self._trips) * shards)
        table_LS: Column = cells_N.astype(np.int64).reshape(len(self._trips), shards)
        return table_LS

    @property
    def layers_L(self) -> Column:
        """The layer of each trip."""
        return np.array([trip.layer for trip in self._trips], dtype=np.int64)

    def assignments_by_layer(self, layers: int, shards: int) -> Column:
        """(token, expert) pairs that each shard was asked for in each of the model's layers, [layers, S]."""
        sizes_L, _ = self._sizes
        cells_N = np.repeat(self.layers_L, sizes_L) * shards + self.shards_N
        table: Column = np.bincount(cells_N, self.assignments_N, layers * shards).astype(np.int64)
        return table.reshape(layers, shards)

    def straggler_ns(self) -> float:
        """Over the trips: the time of the slowest shard's reply minus the mean of all replies."""
        if not self._trips:
            return 0.0
        sizes_L, starts_L = self._sizes
        slowest_L = np.maximum.reduceat(self._received_N, starts_L)
        # Sums of lags, not of stamps: those may have been counting for years.
        lags_N = np.repeat(slowest_L, sizes_L) - self._received_N
        return float((np.add.reduceat(lags_N, starts_L) / sizes_L).sum())

    def exposed_compute_ns(self) -> int:
        """The part of the waits in which experts computed while the last shard to reply had its call.

        What remains is communication: the engine waited for the last shard's reply.
        """
        if not self._trips:
            return 0
        sizes_L, starts_L = self._sizes
        waiting_L, exposed_L = np.array([(trip.waiting_ns, trip.exposed_ns) for trip in self._trips]).T
        sent_N = self._received_N - self.phase_N(Phase.COMBINE) - np.repeat(waiting_L, sizes_L)
        begun_N = sent_N - self.phase_N(Phase.COMPUTE)
        last_L = self._last(sizes_L, starts_L)
        opens_L = np.maximum(begun_N[last_L] - self.phase_N(Phase.QUEUE)[last_L], 0)
        closes_L = np.maximum(np.minimum(sent_N[last_L], exposed_L), opens_L)
        # Lay the waits of all trips end to end on one time line, so that one sweep covers them.
        line_L = np.cumsum(closes_L) - closes_L
        window = (np.repeat(opens_L, sizes_L), np.repeat(closes_L, sizes_L))
        line_N = np.repeat(line_L, sizes_L)
        return covered(np.clip(begun_N, *window) + line_N, np.clip(sent_N, *window) + line_N)

    @cached_property
    def _sizes(self) -> tuple[Column, Column]:
        sizes_L = np.array([len(trip.packed) for trip in self._trips]) // CALL.size
        return sizes_L, np.cumsum(sizes_L) - sizes_L

    def _last(self, sizes_L: Column, starts_L: Column) -> Column:
        """The call of each trip whose reply came last."""
        slowest_L = np.maximum.reduceat(self._received_N, starts_L)
        at = np.flatnonzero(self._received_N == np.repeat(slowest_L, sizes_L))
        return at[np.searchsorted(at, starts_L)]


def covered(begins_N: Column, ends_N: Column) -> int:
    """The length of the union of intervals."""
    order_N = np.argsort(begins_N, kind="stable")
    begins_N, ends_N = begins_N[order_N], ends_N[order_N]
    reach_N = np.maximum.accumulate(ends_N)
    begins_N[1:] = np.maximum(begins_N[1:], reach_N[:-1])
    return int(np.maximum(ends_N - begins_N, 0).sum())
