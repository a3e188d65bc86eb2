"""The maps of a cluster's experts: the registry's part, which alone decides them. Plain data in and out, no Ray.

A map is a `Placement` with an epoch. The first is decided when a process asks for it, and stays until shards have
prepared for another one that was proposed: see `cluster/processes/maps/migration.py`. Epochs never decrease, whoever is
restarted: every process says in its entry which epoch it knows, and tells its map to a registry that does not know it.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from cluster.planner.ring import ring_over_nodes
from cluster.processes.maps.askers import Askers
from cluster.processes.maps.entry import Entry
from cluster.processes.maps.map_view import ANYBODY, Asker, MapView
from cluster.processes.maps.migration import ChangingMap, Migration, MigrationRefusedError, Sight
from experts.host.log import fields
from experts.placement import Placement, even_placement

log = logging.getLogger(__name__)

# Whatever lives has renewed its entry by then.
HEAR_SECONDS = 10.0
# Shards register before they load, as soon as Ray has placed them. None can serve before all are there.
GATHER_SECONDS = 60.0
PREPARE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What a configuration asks of a map: `experts` of a layer on `shards` shards, `copies` of each.

    Maps are of one layout: while a cluster is updated, processes of two configurations are there. With `spread` there
    may be several nodes, and copies have to be on different ones. `start` names the placement that the first map is to
    be, which a process tells then; empty spreads experts evenly. A cluster starts with `shards`; while it runs there
    may be as many as it has `room` for, if that is more.
    """

    experts: int
    shards: int
    copies: int = 1
    spread: bool = False
    start: str = ""
    room: int = 0

    @property
    def any_order(self) -> bool:
        """Whether it does not matter in which order shards hold the runs of experts."""
        return not self.spread or self.copies == 1


class PlacementMaps:
    """The current map of each layout, and what is to follow it.

    Args:
        entries: the processes that live, the youngest last.
        restarted: whether this registry replaces one that has died, and so may have forgotten maps.
        clock: in seconds.
        wall: seconds since 1970, for reports.
    """

    def __init__(
        self,
        entries: Callable[[], Iterable[Entry]],
        restarted: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._entries = entries
        self._restarted = restarted
        self._clock = clock
        self._wall = wall
        self._maps: dict[Layout, ChangingMap] = {}
        self._gathering: dict[Layout, float] = {}
        self._starts: dict[Layout, Placement] = {}
        self._askers: dict[Layout, Askers] = {}
        self._heard = 0
        self._began = clock()

    def view(self, layout: Layout, known: int = 0, asker: Asker = ANYBODY) -> MapView:
        """What a process that knows the map of epoch `known` is to know of the layout's maps.

        A first map is decided now if there is none; the epoch is 0 while that has to wait for processes to register.
        Who asks counts from now on as one that goes by this layout's maps, until it has been silent for ten seconds.
        """
        if layout not in self._maps and not known and self._may_decide(layout):
            self._maps[layout] = ChangingMap(self._decided(layout))
        asked = self._askers.setdefault(layout, Askers(self._clock)).note(asker)
        if (changing := self._advanced(layout)) is None:
            return MapView(0, settled=False)
        epoch = changing.coming.epoch if changing.coming else 0
        has, asked.shown = epoch == asker.coming == asked.shown, epoch
        return MapView(
            epoch=changing.current.epoch,
            current=changing.current if changing.current.epoch > known else None,
            coming=None if has else changing.coming,
            settled=self._settled(layout, changing),
            coming_epoch=epoch,
        )

    def start_from(self, layout: Layout, placement: Placement) -> None:
        """Let the layout's first map be this one, unless there is a map already."""
        self._starts[layout] = placement

    def tell(self, layout: Layout, placement: Placement) -> None:
        """Take a map that a process knows, unless a newer one of its layout is known here."""
        self._heard = max(self._heard, placement.epoch)
        if (changing := self._maps.get(layout)) is None:
            self._maps[layout] = ChangingMap(placement)
        elif placement.epoch > changing.current.epoch:
            changing.learn(placement, self._wall())

    def propose(
        self, layout: Layout, placement: Placement, basis: int, reason: str, seconds: float = PREPARE_SECONDS
    ) -> int:
        """Let shards prepare for another map, which then becomes the current one; return its epoch, whatever it has.

        Args:
            basis: epoch of the map from which it was made.
            reason: why, for those who look.
            seconds: how long shards may take before it is given up.

        Raises:
            MigrationRefusedError: another is coming or routers still change over to the last one; the basis is not the
                current map; it is of other experts or shards, or has too few copies; or this registry was restarted so
                recently that there may be maps of which it has not heard.
        """
        if self._may_have_forgotten():
            raise MigrationRefusedError(f"the registry was restarted {HEAR_SECONDS:.0f} s ago or less: try again then")
        if (changing := self._advanced(layout)) is None:
            raise MigrationRefusedError("no map has been decided yet: try again when the cluster serves")
        _check(layout, placement, changing.current, basis)
        coming = replace(placement, epoch=self._highest() + 1)
        changing.begin(coming, reason, self._clock() + seconds, self._wall())
        self._heard = coming.epoch
        log.info("a placement is proposed", extra=fields(epoch=coming.epoch, basis=basis, reason=reason))
        return coming.epoch

    def abandon(self, layout: Layout, epoch: int, reason: str) -> None:
        """Give up the coming map if it has this epoch; the current one stays."""
        changing = self._advanced(layout)
        if changing is not None and changing.coming is not None and changing.coming.epoch == epoch:
            self._change(changing, lambda: changing.fail(reason, self._wall()))

    def migration(self, layout: Layout) -> Migration | None:
        """The layout's last change of placement; None before the first."""
        changing = self._advanced(layout)
        return changing.last if changing else None

    def needed(self) -> tuple[frozenset[int], bool] | None:
        """The shards that a map gives experts by which anybody goes, also a coming one; whether any map is changing.

        None while this registry may have forgotten maps.
        """
        if self._may_have_forgotten():
            return None
        shards: set[int] = set()
        changing = False
        for layout in list(self._maps):
            one = self._advanced(layout)
            if one is not None and self._askers[layout].any:
                shards |= one.current.holding | (one.coming.holding if one.coming else frozenset())
                changing = changing or one.coming is not None or not self._settled(layout, one)
        return frozenset(shards), changing

    def forget(self, replica: str) -> None:
        """A process has gone, and holds up no change."""
        for askers in self._askers.values():
            askers.forget(replica)

    def _advanced(self, layout: Layout) -> ChangingMap | None:
        """The layout's map, gone on as far as what is known now allows."""
        changing = self._maps.get(layout)
        if changing is not None:
            sight = self._sight(layout, changing)
            self._change(changing, lambda: changing.advance(sight, self._clock(), self._wall()))
        return changing

    def _change(self, changing: ChangingMap, step: Callable[[], None]) -> None:
        before = changing.last
        step()
        if (last := changing.last) is not None and (before is None or before.state != last.state):
            log.info("a placement is " + last.state, extra=fields(epoch=last.epoch, reason=last.reason))

    def _settled(self, layout: Layout, changing: ChangingMap) -> bool:
        # After a restart routers may go by a map that this registry has not heard of yet.
        return not self._may_have_forgotten() and changing.settled(self._sight(layout, changing))

    def _sight(self, layout: Layout, changing: ChangingMap) -> Sight:
        others = [askers for other, askers in self._askers.items() if other != layout]
        entries = [one for one in self._entries() if not any(askers.among(one.replica) for askers in others)]
        askers = self._askers.setdefault(layout, Askers(self._clock))
        return askers.sight(entries, changing.coming.epoch if changing.coming else 0)

    def _highest(self) -> int:
        """Of all epochs that were ever given, as far as is known; that of a coming map is not given twice."""
        said = [max(one.epoch, one.prepared, one.refused[0] if one.refused else 0) for one in self._entries()]
        self._heard = max([self._heard, *said])
        return self._heard

    def _may_have_forgotten(self) -> bool:
        return self._clock() - self._began < HEAR_SECONDS and self._restarted()

    def _may_decide(self, layout: Layout) -> bool:
        self._highest()  # also what is said by one that dies before it can tell its map
        if self._may_have_forgotten():
            return False
        known = max((one.current.epoch for one in self._maps.values()), default=0)
        if any(one.epoch > known for one in self._entries()):  # it will tell its map
            return False
        if layout.start:
            return layout in self._starts
        if layout.any_order or len(self._nodes(layout)) == layout.shards:
            return True
        since = self._gathering.setdefault(layout, self._clock())
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
        start = self._starts.get(layout)
        even = even_placement(layout.experts, layout.shards, layout.copies, ring, layout.room)
        placement = start or even
        self._heard = self._highest() + 1
        log.info("placed experts", extra=fields(epoch=self._heard, copies=layout.copies, nodes=len({*places})))
        return replace(placement, epoch=self._heard)


def _check(layout: Layout, placement: Placement, current: Placement, basis: int) -> None:
    """Refuse a map that cannot follow the current one."""
    if basis != current.epoch:
        raise MigrationRefusedError(f"it was made from the map of epoch {basis}, the current one is {current.epoch}")
    if (placement.experts, placement.shards) != (current.experts, current.shards):
        there = f"{placement.experts} experts on {placement.shards} shards"
        raise MigrationRefusedError(f"a map of {there} cannot follow one of {current.experts} on {current.shards}")
    if placement.copies < layout.copies:
        raise MigrationRefusedError(
            f"some expert would have {placement.copies} copies, experts.copies asks for {layout.copies}"
        )
