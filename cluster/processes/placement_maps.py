"""The maps of a cluster's experts: the registry's part, which alone decides them. Plain data in and out, no Ray.

A map is a `Placement` with an epoch. The first is decided when a process asks for it, and stays for the cluster's life
unless a newer one is published. Epochs never decrease, whoever is restarted: every process says with its entry which
epoch it knows, and tells its map to a registry that does not know it.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from cluster.planner.ring import ring_over_nodes
from experts.host.log import fields
from experts.placement import Placement, even_placement

log = logging.getLogger(__name__)

# Whatever lives has renewed its entry by then.
HEAR_SECONDS = 10.0
# Shards register before they load, as soon as Ray has placed them. None can serve before all are there.
GATHER_SECONDS = 60.0


class Entry(Protocol):
    """What is read of a process's entry in the registry."""

    @property
    def role(self) -> str:
        """shard, router or front."""

    @property
    def index(self) -> int:
        """Which shard it is."""

    @property
    def node(self) -> str:
        """Where it runs."""

    @property
    def epoch(self) -> int:
        """Of the map that it knows, 0 if none."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a configuration asks of a map: `experts` of a layer on `shards` shards, `copies` of each.

    Maps are of one layout: while a cluster is updated, processes of two configurations are there. With `spread` there
    may be several nodes, and copies have to be on different ones.
    """

    experts: int
    shards: int
    copies: int = 1
    spread: bool = False

    @property
    def any_order(self) -> bool:
        """Whether it does not matter in which order shards hold the runs of experts."""
        return not self.spread or self.copies == 1


class StaleEpochError(ValueError):
    """A map whose epoch is not higher than that of every map before it."""


class PlacementMaps:
    """The current map of each layout.

    Args:
        entries: the processes that live, the youngest last.
        restarted: whether this registry replaces one that has died, and so may have forgotten maps.
        clock: in seconds.
    """

    def __init__(
        self,
        entries: Callable[[], Iterable[Entry]],
        restarted: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._entries = entries
        self._restarted = restarted
        self._clock = clock
        self._maps: dict[Layout, Placement] = {}
        self._asked: dict[Layout, float] = {}
        self._heard = 0
        self._began = clock()

    def get(self, layout: Layout, known: int = 0) -> tuple[int, Placement | None]:
        """The current map's epoch, and the map if that is over `known`, the epoch that the caller knows.

        A map is decided now if there is none; the epoch is 0 while that has to wait for processes to register.
        """
        if layout not in self._maps and not known and self._may_decide(layout):
            self._maps[layout] = self._decided(layout)
        current = self._maps.get(layout)
        if current is None:
            return 0, None
        return current.epoch, current if current.epoch > known else None

    def tell(self, layout: Layout, placement: Placement) -> None:
        """Take a map that a process knows, unless a newer one of its layout is known here."""
        self._heard = max(self._heard, placement.epoch)
        if layout not in self._maps or placement.epoch > self._maps[layout].epoch:
            self._maps[layout] = placement

    def publish(self, layout: Layout, placement: Placement) -> None:
        """Let a new map replace the current one; processes get it within about a second.

        Raises:
            StaleEpochError: its epoch is not higher than that of every map before it, of any layout; or this registry
                was restarted so recently that there may be maps of which it has not heard.
            ValueError: it is of other experts or shards than the layout.
        """
        if (placement.experts, placement.shards) != (layout.experts, layout.shards):
            there = f"{placement.experts} experts on {placement.shards} shards"
            raise ValueError(f"a map of {there} is none of {layout.experts} on {layout.shards}")
        if self._may_have_forgotten():
            raise StaleEpochError(f"the registry was restarted less than {HEAR_SECONDS:.0f} s ago: try again then")
        if placement.epoch <= (highest := self._highest()):
            raise StaleEpochError(f"the map's epoch is {placement.epoch}, it must be over {highest}, the last one's")
        self.tell(layout, placement)

    def _highest(self) -> int:
        self._heard = max([self._heard, *(one.epoch for one in self._entries())])
        return self._heard

    def _may_have_forgotten(self) -> bool:
        return self._clock() - self._began < HEAR_SECONDS and self._restarted()

    def _may_decide(self, layout: Layout) -> bool:
        self._highest()  # also what is said by one that dies before it can tell its map
        if self._may_have_forgotten():
            return False
        known = max((one.epoch for one in self._maps.values()), default=0)
        if any(one.epoch > known for one in self._entries()):  # it will tell its map
            return False
        if layout.any_order or len(self._nodes(layout)) == layout.shards:
            return True
        since = self._asked.setdefault(layout, self._clock())
        return self._clock() - since >= GATHER_SECONDS

    def _nodes(self, layout: Layout) -> dict[int, str]:
        """Where the layout's shards are, as far as they have registered: they know no map yet, others are older."""
        shards = [one for one in self._entries() if one.role == "shard" and not one.epoch]
        return {one.index: one.node for one in shards if one.index < layout.shards}

    def _decided(self, layout: Layout) -> Placement:
        nodes = self._nodes(layout)
        # Those that have not said where they are may be together: on a node that has no name.
        places = [nodes.get(shard, "") for shard in range(layout.shards)]
        ring = range(layout.shards) if layout.any_order else ring_over_nodes(places, layout.copies)
        placement = even_placement(layout.experts, layout.shards, layout.copies, ring)
        self._heard = self._highest() + 1
        log.info("placed experts", extra=fields(epoch=self._heard, copies=layout.copies, nodes=len({*places})))
        return replace(placement, epoch=self._heard)
