"""What a process is told of the placement maps: the current one, and one that shards prepare for."""

from dataclasses import dataclass

from experts.placement import Placement


@dataclass(frozen=True, slots=True)
class Asker:
    """The process that asks for a view. To be counted as one that goes by the layout's maps it says who it is.

    `asks_by` is the epoch by which a router calls shards, from before its first call on; 0 while it calls none.
    `coming` is the epoch of the coming map that it has, 0 if none.
    """

    role: str = ""
    replica: str = ""
    asks_by: int = 0
    coming: int = 0


ANYBODY = Asker()


@dataclass(frozen=True, slots=True)
class MapView:
    """`epoch` of the current map, 0 while none is decided, and the map itself unless the caller knows it.

    `coming` is to be the next one: shards load what it gives them and say with their entry when they have (`prepared`);
    then it becomes the current one. It is None for one who has it: `coming_epoch` says whether there is one.
    `settled`: every router asks by the current map, so what only an earlier one gave a shard may go.
    """

    epoch: int
    current: Placement | None = None
    coming: Placement | None = None
    settled: bool = True
    coming_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """The maps as a process knows them: see `MapView`."""

    current: Placement
    coming: Placement | None = None
    settled: bool = False
