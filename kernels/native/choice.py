"""Which holder of each expert is asked, by the native library. E experts, S shards, T tokens, K experts per token.

What is decided and how: `experts.division.choosing`, which hands in plain arrays. A place is an expert at a holder;
there are P of them. N = T K pairs.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.native.library import library
from kernels.native.structs import ChooseCall, DivideCall

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float64]
NO_MEMORY, BAD_EXPERT = -1, -2
PAIR_BYTES = 3 * 8 + 3 * 4


class Divided(NamedTuple):
    """A batch's pairs by shard, block, expert and token; `DivideCall` of `src/choice.h` says what the fields mean.

    `parts` has shard, block and end of each part, `runs` the ends of rows and of parts of each run, and between them
    its experts.
    """

    places_N: Longs
    order_N: Longs
    tokens_N: Longs
    rows_N: Ints
    experts_N: Ints
    weights_N: NDArray[np.float32]
    parts: list[list[int]]
    runs: list[list[int]]


class NativeChoice:
    """Chooses for one layer, call after call, into arrays of its own.

    `shard_of_E` says who is asked for most of each expert's pairs, -1 where there are none, and `given_P` has the pairs
    of each place. Each call overwrites them.

    Args:
        starts_E1: expert e has the places from starts_E1[e] to starts_E1[e + 1], [E + 1].
        holders_P: the shard of each place.
        block_of_E: a number for each expert that is equal where the holders are.
    """

    def __init__(self, starts_E1: Ints, holders_P: Ints, block_of_E: Ints, shards: int) -> None:
        experts, places = len(starts_E1) - 1, len(holders_P)
        if int(starts_E1[-1]) != places or len(block_of_E) != experts or int(holders_P.max(initial=0)) >= shards:
            raise ValueError(f"{places} places do not fit {experts} experts and {shards} shards")
        self._pairs_E, self.shard_of_E = np.zeros((2, experts), np.int32)
        self.given_P = np.zeros(places, np.int32)
        self._ranks_S, self._ranks = np.zeros(shards, np.int32), [0] * shards
        self._costs_3S = np.ones((3, shards))
        self._parts_P3, self._runs_S3 = np.zeros((places, 3), np.int32), np.zeros((shards, 3), np.int32)
        self._inputs = tuple(np.ascontiguousarray(array, np.int32) for array in (starts_E1, holders_P, block_of_E))
        outputs = (self._pairs_E, self.shard_of_E, self.given_P)
        arrays = (*self._inputs[:2], *self._costs_3S, self._ranks_S, *outputs)
        self._choice = ChooseCall(None, *(array.ctypes.data for array in arrays), 0, experts, shards)
        parts, runs = self._parts_P3.ctypes.data, self._runs_S3.ctypes.data
        self._division = DivideCall(
            choice=ctypes.pointer(self._choice), blocks=self._inputs[2].ctypes.data, parts=parts, runs=runs
        )
        self._by = ctypes.byref(self._choice), ctypes.byref(self._division)
        self._library = library()

    def set_costs(self, call_us_S: Floats, expert_us_S: Floats, pair_us_S: Floats) -> None:
        """Go by these costs from now on."""
        self._costs_3S[:] = (call_us_S, expert_us_S, pair_us_S)

    def choose(self, ids_TK: Longs, ranks: list[int]) -> int:
        """Choose for a batch's experts, negative ids being lost; returns how many were split over several holders.

        Args:
            ranks: of each shard; of an expert's holders only those of the lowest one are asked. Empty: all alike.

        Raises:
            ValueError: an id lies outside the experts.
            MemoryError: there is none for the search.
        """
        ids_TK = self._ask(ids_TK, ranks)
        return _checked(self._library.choose(self._by[0]))

    def divide(self, ids_TK: Longs, weights_TK: NDArray[np.float32], ranks: list[int]) -> Divided:
        """Choose, and divide the batch by that. As `choose`."""
        ids_TK = self._ask(ids_TK, ranks)
        weights_TK = np.ascontiguousarray(weights_TK, np.float32)
        pairs, call = ids_TK.size, self._division
        # New for each batch: calls may wait to be sent.
        memory = np.empty(PAIR_BYTES * pairs, np.uint8)
        start = memory.ctypes.data
        call.places, call.order, call.tokens = start, start + 8 * pairs, start + 16 * pairs
        call.rows, call.experts, call.sorted = start + 24 * pairs, start + 28 * pairs, start + 32 * pairs
        call.weights, call.width = weights_TK.ctypes.data, ids_TK.shape[1]
        _checked(self._library.divide(self._by[1]))
        longs, shorts = memory[: 24 * pairs].view(np.int64), memory[24 * pairs :].view(np.int32)
        return Divided(
            longs[:pairs],
            longs[pairs : 2 * pairs],
            longs[2 * pairs :],
            shorts[:pairs],
            shorts[pairs : 2 * pairs],
            shorts[2 * pairs :].view(np.float32),
            self._parts_P3[: call.part_count].tolist(),
            self._runs_S3[: call.run_count].tolist(),
        )

    def _ask(self, ids_TK: Longs, ranks: list[int]) -> Longs:
        """Point at a batch's experts; returns what must be kept meanwhile."""
        ids_TK = np.ascontiguousarray(ids_TK, np.int64)
        if ranks and ranks != self._ranks:
            self._ranks_S[:] = self._ranks = ranks
        self._choice.ids, self._choice.count = ids_TK.ctypes.data, ids_TK.size
        return ids_TK


def _checked(split: int) -> int:
    if split == BAD_EXPERT:
        raise ValueError("an expert id lies outside the layer's experts")
    if split == NO_MEMORY:
        raise MemoryError("no memory to choose the holders of a layer's experts")
    return split
