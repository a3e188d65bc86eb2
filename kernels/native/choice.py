"""Which holder of each expert is asked, by the native library. E experts, S shards, N places (an expert at a holder).

What is decided and how: `experts.choosing`, which hands in plain arrays.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from kernels.native.library import library
from kernels.native.structs import ChooseCall

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
NO_MEMORY, BAD_EXPERT = -1, -2


class NativeChoice:
    """Chooses for one layer, call after call, into arrays of its own.

    `pairs_E` are the batch's pairs of each expert, `shard_of_E` who is asked for most of them, -1 where there are none,
    and `given_N` the pairs of each place. Each call overwrites them.

    Args:
        starts_E1: expert e has the places from starts_E1[e] to starts_E1[e + 1], [E + 1].
        holders_N: the shard of each place.
    """

    def __init__(self, starts_E1: Ints, holders_N: Ints, shards: int) -> None:
        experts = len(starts_E1) - 1
        if int(starts_E1[-1]) != len(holders_N) or (len(holders_N) and int(holders_N.max()) >= shards):
            raise ValueError(f"{len(holders_N)} places do not fit the experts' starts, or {shards} shards")
        self.pairs_E, self.shard_of_E = np.zeros((2, experts), np.int32)
        self.given_N = np.zeros(len(holders_N), np.int32)
        self._ranks_S = np.zeros(shards, np.int32)
        self._ranks: list[int] = [0] * shards
        self._costs_3S = np.ones((3, shards))
        self._kept = (np.ascontiguousarray(starts_E1, np.int32), np.ascontiguousarray(holders_N, np.int32))
        outputs = (self.pairs_E, self.shard_of_E, self.given_N)
        arrays = (*self._kept, *self._costs_3S, self._ranks_S, *outputs)
        self._call = ChooseCall(None, *(array.ctypes.data for array in arrays), 0, experts, shards)
        self._by = ctypes.byref(self._call)
        self._choose = library().choose

    def set_costs(self, call_us_S: Floats, expert_us_S: Floats, pair_us_S: Floats) -> None:
        """Go by these costs from now on."""
        self._costs_3S[:] = (call_us_S, expert_us_S, pair_us_S)

    def choose(self, ids_TK: NDArray[np.int64], ranks: list[int]) -> int:
        """Choose for a batch's experts, negative ids being lost; returns how many were split over several holders.

        Args:
            ranks: of each shard; of an expert's holders only those of the lowest one are asked.

        Raises:
            ValueError: an id lies outside the experts.
            MemoryError: there is none for the search.
        """
        ids_TK = np.ascontiguousarray(ids_TK, np.int64)
        if ranks != self._ranks:
            self._ranks_S[:] = self._ranks = ranks
        self._call.ids, self._call.count = ids_TK.ctypes.data, ids_TK.size
        split = int(self._choose(self._by))
        if split == BAD_EXPERT:
            raise ValueError("an expert id lies outside the layer's experts")
        if split == NO_MEMORY:
            raise MemoryError("no memory to choose the holders of a layer's experts")
        return split
