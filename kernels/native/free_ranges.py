"""Which ranges of which owners are free: neighbours grow together, and the smallest that suffices is taken first."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


@dataclass(frozen=True, slots=True)
class Range(Generic[Owner]):
    """Bytes `start` to `end` of `owner`."""

    owner: Owner
    start: int
    end: int


class FreeRanges(Generic[Owner]):
    """Ranges by size (best fit: experts of a model are alike, so what one leaves another fills)."""

    def __init__(self) -> None:
        self._numbers = count()
        self._sizes: list[tuple[int, int]] = []  # (size, number), ascending
        self._ranges: dict[int, Range[Owner]] = {}
        self._by_start: dict[tuple[int, int], int] = {}  # (id of the owner, start or end) -> number
        self._by_end: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def take(self, size: int) -> Range[Owner] | None:
        """The front of the smallest range that has so many bytes, which are free no more; None where none has."""
        place = bisect_left(self._sizes, (size, 0))
        if place == len(self._sizes):
            return None
        found = self._ranges[self._sizes[place][1]]
        self.remove(found)
        if found.start + size < found.end:
            self._insert(Range(found.owner, found.start + size, found.end))
        return Range(found.owner, found.start, found.start + size)

    def add(self, owner: Owner, start: int, end: int) -> Range[Owner]:
        """Free these bytes; return the range that they are part of now (empty if they are none)."""
        before, after = self._by_end.get((id(owner), start)), self._by_start.get((id(owner), end))
        for number in (before, after):
            if number is not None:
                neighbour = self._ranges[number]
                self.remove(neighbour)
                start, end = min(start, neighbour.start), max(end, neighbour.end)
        grown = Range(owner, start, end)
        if start < end:
            self._insert(grown)
        return grown

    def remove(self, free: Range[Owner]) -> None:
        """Forget a range as a whole."""
        number = self._by_start.pop((id(free.owner), free.start))
        del self._by_end[id(free.owner), free.end], self._ranges[number]
        del self._sizes[bisect_left(self._sizes, (free.end - free.start, number))]

    def _insert(self, free: Range[Owner]) -> None:
        number = next(self._numbers)
        self._ranges[number] = free
        self._by_start[id(free.owner), free.start] = self._by_end[id(free.owner), free.end] = number
        insort(self._sizes, (free.end - free.start, number))
