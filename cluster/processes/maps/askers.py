"""Who goes by a layout's maps: the processes that ask for them, and what they have been shown."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cluster.processes.maps.entry import Entry
from cluster.processes.maps.map_view import Asker
from cluster.processes.maps.migration import Sight

# As long as entries: who has not asked for so long is gone, or hangs and is told when it wakes.
FORGET_SECONDS = 10.0


@dataclass(slots=True)
class Asked:
    """When a process asked last, what it said, and the epoch of the coming map that it was shown, 0 if none."""

    at: float
    asker: Asker
    shown: int = 0


class Askers:
    """The processes of one layout. Entries do not name it, but all ask once a second. `clock` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked: dict[str, Asked] = {}

    def note(self, asker: Asker) -> Asked:
        """Note that it asks; return what is known of it, whose `shown` the caller updates."""
        known = self._asked.setdefault(asker.replica, Asked(0.0, asker))
        known.at, known.asker = self._clock(), asker
        return known

    def forget(self, replica: str) -> None:
        """It has gone, and holds nothing up."""
        self._asked.pop(replica, None)

    @property
    def any(self) -> bool:
        """Whether anybody has asked lately."""
        horizon = self._clock() - FORGET_SECONDS
        return any(one.at > horizon for one in self._asked.values())

    def among(self, replica: str) -> bool:
        """Whether it has asked lately."""
        return replica in self._asked

    def sight(self, entries: Iterable[Entry], coming: int) -> Sight:
        """Of each shard its youngest process that has been shown the coming map, and by which epochs routers ask.

        Before it was shown that map, what it says to have prepared for is another one, of a registry that has died.

        Args:
            entries: of this layout, or of one that has not asked yet; the youngest last.
            coming: the coming map's epoch, 0 if there is none.
        """
        horizon = self._clock() - FORGET_SECONDS
        self._asked = {replica: one for replica, one in self._asked.items() if one.at > horizon}
        listed = list(entries)
        youngest = {one.index: one for one in listed if one.role == "shard"}
        shards = {index: one for index, one in youngest.items() if self._was_shown(one.replica, coming)}
        drained = {one.replica for one in listed if one.state == "drained"}
        asking = [one.asker.asks_by for replica, one in self._asked.items() if replica not in drained]
        return Sight(shards, [epoch for epoch in asking if epoch])

    def _was_shown(self, replica: str, coming: int) -> bool:
        return replica in self._asked and self._asked[replica].shown == coming
