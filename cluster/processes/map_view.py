"""What a process is told of the placement maps: the current one, and one that shards prepare for."""

from dataclasses import dataclass

from experts.placement import Placement


@dataclass(frozen=True, slots=True)
class MapView:
    """`epoch` of the current map, 0 while none is decided, and the map itself unless the caller knows it.

    `coming` is to be the next one: shards load what it gives them and say with their entry when they have (`prepared`);
    then it becomes the current one. `settled`: every router asks by the current map, so what only an earlier one gave
    a shard may go.
    """

    epoch: int
    current: Placement | None = None
    coming: Placement | None = None
    settled: bool = True
