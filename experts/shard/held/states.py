"""Which copies of experts a shard is loading, holds, and has given up: a copy's life.

    COPYING -> HELD -> RETIRING -> DROPPED

A copy is RETIRING while a call that began before is still computed by it; then its memory goes.
"""

import threading
import weakref
from collections.abc import Iterable
from enum import StrEnum

from experts.shard.held.layer import ExpertCopy


class CopyState(StrEnum):
    """Where a copy of an expert stands."""

    COPYING = "copying"
    HELD = "held"
    RETIRING = "retiring"
    DROPPED = "dropped"


class CopyStates:
    """The copies that are not simply held: `copying` counts those that are being loaded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._copying: set[tuple[int, int]] = set()
        # Without a hold on them: each goes when the last call that uses it has ended.
        self._retiring = weakref.WeakSet[ExpertCopy]()

    @property
    def copying(self) -> int:
        """How many copies are being loaded."""
        return len(self._copying)

    @property
    def retiring(self) -> int:
        """How many copies are given up and still computed by."""
        return len(self._left())

    def begin(self, wanted: Iterable[tuple[int, int]]) -> None:
        """These (layer, expert) are being loaded."""
        with self._lock:
            self._copying |= set(wanted)

    def end(self, wanted: Iterable[tuple[int, int]]) -> None:
        """They are not any more: held, or given up."""
        with self._lock:
            self._copying -= set(wanted)

    def retire(self, copies: Iterable[ExpertCopy]) -> None:
        """These are given up."""
        with self._lock:
            for copy in copies:
                self._retiring.add(copy)

    def of(self, layer: int, expert: int) -> CopyState:
        """The state of an expert that is not held."""
        if (layer, expert) in self._copying:
            return CopyState.COPYING
        retiring = any((copy.layer, copy.expert) == (layer, expert) for copy in self._left())
        return CopyState.RETIRING if retiring else CopyState.DROPPED

    def _left(self) -> list[ExpertCopy]:
        with self._lock:  # a set may not grow while it is walked through
            return list(self._retiring)
