"""How one placement map follows another: a state machine of plain data, whose caller has the clocks.

A change is `preparing` while shards load what it gives them, `switched` once its map is the current one and routers
change over, and `done` when all of them ask by it; or it has `failed`, and the map from before it stays.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from experts.placement import Placement

PREPARING, SWITCHED, DONE, FAILED = "preparing", "switched", "done", "failed"


class MigrationRefusedError(ValueError):
    """A proposed map that cannot follow the current one, or not now; the message says why."""


class PreparedShard(Protocol):
    """What a shard says in its entry."""

    @property
    def state(self) -> str:
        """It can be asked if it is ready."""

    @property
    def prepared(self) -> int:
        """The epoch of the coming map whose experts it holds, all of them, 0 if none."""

    @property
    def refused(self) -> tuple[int, str] | None:
        """The epoch of a coming map that it cannot prepare for, and why."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A change of placement, as it stands. Times are seconds since 1970, `ended` is 0 until it is done or has failed.

    `shards_loading` are those that the coming map gives something new, `shards_ready` those of them that hold it.
    Copies are counted by layer: in each that one of the maps places on its own, or once for all.
    """

    epoch: int
    state: str
    reason: str = ""
    began: float = 0.0
    ended: float = 0.0
    shards_loading: int = 0
    shards_ready: int = 0
    copies_added: int = 0
    copies_dropped: int = 0

    @property
    def over(self) -> bool:
        """Whether another may begin."""
        return self.state in (DONE, FAILED)


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of the layout's processes: of each shard its youngest process, and by which epochs routers ask."""

    shards: Mapping[int, PreparedShard]
    routers: Collection[int]


class ChangingMap:
    """The current map, the one that is to follow it, and how far that is."""

    def __init__(self, current: Placement) -> None:
        self.current = current
        self.coming: Placement | None = None
        self.last: Migration | None = None
        self._deadline = 0.0
        self._loading: frozenset[int] = frozenset()

    def begin(self, coming: Placement, reason: str, deadline: float, wall: float) -> None:
        """Let shards prepare for `coming`, whose epoch is higher than any before.

        Raises:
            MigrationRefusedError: another change is not over.
        """
        if self.last is not None and not self.last.over:
            raise MigrationRefusedError(f"the change to epoch {self.last.epoch} is not over: it is {self.last.state}")
        added, dropped = changed_copies(self.current, coming)
        self.coming, self._deadline = coming, deadline
        self._loading = frozenset(shard for _, _, shard in added)
        self.last = Migration(
            epoch=coming.epoch,
            state=PREPARING,
            reason=reason,
            began=wall,
            shards_loading=len(self._loading),
            copies_added=len(added),
            copies_dropped=len(dropped),
        )

    def advance(self, sight: Sight, now: float, wall: float) -> None:
        """Go on as far as what is seen allows."""
        if self.last is None or self.last.over:
            return
        if self.coming is not None:
            self._prepare(self.coming, sight, now, wall)
        if self.last.state == SWITCHED and self.settled(sight):
            self.last = replace(self.last, state=DONE, ended=wall)

    def fail(self, reason: str, wall: float) -> None:
        """Give up the coming map, if there is one."""
        if self.coming is not None and self.last is not None:
            self.coming = None
            self.last = replace(self.last, state=FAILED, reason=reason, ended=wall)

    def learn(self, current: Placement, wall: float) -> None:
        """Take a newer current map, which a process knew."""
        self.fail(f"a newer map, epoch {current.epoch}, was known already", wall)
        if self.last is not None and not self.last.over:
            self.last = replace(self.last, state=DONE, ended=wall)
        self.current = current

    def settled(self, sight: Sight) -> bool:
        """Whether all routers ask by the current map."""
        return all(epoch >= self.current.epoch for epoch in sight.routers)

    def _prepare(self, coming: Placement, sight: Sight, now: float, wall: float) -> None:
        assert self.last is not None
        for index, shard in sorted(sight.shards.items()):
            if shard.refused is not None and shard.refused[0] == coming.epoch:
                return self.fail(f"shard {index} refuses: {shard.refused[1]}", wall)
        missing = [index for index in sorted(coming.holding) if not _prepared(sight.shards.get(index), coming.epoch)]
        self.last = replace(self.last, shards_ready=len(self._loading.difference(missing)))
        if not missing:
            self.current, self.coming = coming, None
            self.last = replace(self.last, state=SWITCHED)
        elif now >= self._deadline:
            self.fail(f"not prepared in time: shards {', '.join(map(str, missing))}", wall)
        return None


def _prepared(shard: PreparedShard | None, epoch: int) -> bool:
    return shard is not None and shard.state == "ready" and shard.prepared == epoch


Copy = tuple[int, int, int]


def changed_copies(before: Placement, after: Placement) -> tuple[frozenset[Copy], frozenset[Copy]]:
    """The copies, as (layer, expert, shard), that are new and that go, in each layer that one of the maps places on its
    own; once, as layer -1, where neither does.
    """
    layers = sorted({*before.special, *after.special}) or [-1]
    old, new = (_copies(placement, layers) for placement in (before, after))
    return new - old, old - new


def _copies(placement: Placement, layers: Collection[int]) -> frozenset[Copy]:
    return frozenset(
        (layer, expert, shard)
        for layer in layers
        for expert, shards in enumerate(placement.layer(layer).holders)
        for shard in shards
    )
