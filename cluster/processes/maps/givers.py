"""Whom a shard asks for an expert before it reads the checkpoint: by the maps and entries of the moment."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cluster.balance.config import CopyFrom
from experts.placement import Placement
from experts.transport.address import Endpoint


@dataclass(frozen=True, slots=True)
class Givers:
    """The shards that may give shard `index` on `node` an expert; none where the checkpoint is the better source.

    Args:
        copy_from: `balance.copy_from`.
        remade: whether reading is work: the experts are stored in another form than they are held in.
        placement: the current map.
        shards: the shards that can be reached, of each the youngest process.
    """

    index: int
    node: str
    copy_from: CopyFrom
    remade: bool
    placement: Callable[[], Placement]
    shards: Callable[[], Iterable[Endpoint]]

    def __call__(self, layer: int, expert: int) -> list[Endpoint]:
        """Whom to ask, one after the other: shards of this node first."""
        if self.copy_from == "checkpoint":
            return []
        there = {one.index: one for one in self.shards() if one.index != self.index}
        holders = [there[shard] for shard in self.placement().layer(layer).holders[expert] if shard in there]
        near = [one for one in holders if one.node == self.node]
        if near and not self.remade and self.copy_from == "auto":
            return []  # it has been read on this node: its bytes are in the page cache, and nobody is to be disturbed
        return near + [one for one in holders if one.node != self.node]
