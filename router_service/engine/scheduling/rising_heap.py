"""A priority queue of keys whose values rise while they are in it. Plain data."""

import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
Rank = tuple[int, ...]

# Entries of keys that have left are dropped when they reach the top, or all together once there are this many.
SPARE_ENTRIES = 64


class RisingHeap(Generic[K]):
    """Finds the key of the least rank; of equal ones the key that has had that rank for longest.

    `rank` returns a key's current rank, None for a key that is not in the queue. A rank may rise at any time without a
    word to the heap: it is looked up again when its key comes to the top. A key is announced by `add` when it enters or
    its rank falls. Operations take O(log n), amortized.
    """

    def __init__(self, rank: Callable[[K], Rank | None]) -> None:
        self._rank = rank
        self._entries: list[tuple[Rank, int, K]] = []
        # The rank of each key's entry. Other entries of the key are void.
        self._noted: dict[K, Rank] = {}
        self._added = 0
        self._limit = SPARE_ENTRIES

    def add(self, key: K) -> None:
        """Enter a key, or note that its rank has fallen; it must have a rank."""
        rank = self._rank(key)
        assert rank is not None
        noted = self._noted.get(key)
        if noted is None or rank < noted:
            self._make_room()
            heapq.heappush(self._entries, self._entry(key, rank))

    def least(self) -> K | None:
        """Return the key of the least rank, None if there is no key."""
        while self._entries:
            noted, _, key = self._entries[0]
            rank = self._rank(key)
            if self._noted.get(key) != noted:
                heapq.heappop(self._entries)
            elif rank is None:
                heapq.heappop(self._entries)
                del self._noted[key]
            elif rank != noted:
                heapq.heapreplace(self._entries, self._entry(key, rank))
            else:
                return key
        return None

    def _entry(self, key: K, rank: Rank) -> tuple[Rank, int, K]:
        self._noted[key] = rank
        self._added += 1
        return rank, self._added, key

    def _make_room(self) -> None:
        """Drop the void entries when they may be half of all, so that keys which come and go fill no memory."""
        if len(self._entries) < self._limit:
            return
        kept = [entry for entry in self._entries if self._is_valid(entry)]
        self._noted = {key: rank for rank, _, key in kept}
        self._entries = kept
        heapq.heapify(self._entries)
        self._limit = 2 * len(kept) + SPARE_ENTRIES

    def _is_valid(self, entry: tuple[Rank, int, K]) -> bool:
        rank, _, key = entry
        return self._noted.get(key) == rank and self._rank(key) is not None
