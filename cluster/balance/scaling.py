"""How many shards there are to be, and which processes are to run for that. Pure: times are handed in, in seconds.

A shard that is wanted is started empty, and gets experts by a move as any other. One that is not wanted is emptied by a
move first, and ended when no map gives it anything and no router asks by one that did.
"""

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cluster.balance.config import BalanceConfig

SLACK = 0.2


def to_run(wanted: int, needed: Collection[int], there: Collection[int], changing: bool) -> frozenset[int]:
    """The shards whose processes are to run: those wanted, and those `needed`, which a map gives experts.

    While a placement is `changing`, or not all routers have changed over to the last one, nobody who is there ends:
    what an earlier map gave a shard may still be asked for.
    """
    return frozenset(range(wanted)) | frozenset(needed) | (frozenset(there) if changing else frozenset())


@dataclass(frozen=True, slots=True)
class Limits:
    """Between what the number of shards may change.

    `experts` of a layer are held `copies` times, by at least as many shards; `each` is how many experts of a layer a
    shard's memory holds; there is room for `most` shards.
    """

    experts: int
    copies: int
    each: int
    most: int

    @property
    def least(self) -> int:
        """The fewest shards whose memory holds all."""
        return max(1, self.copies, math.ceil(self.experts * self.copies / max(1, self.each)))

    def refusal(self, shards: int) -> str:
        """Why there cannot be so many shards; empty if there can."""
        if shards > self.most:
            return f"shards is {shards}, there is room for {self.most}: see experts.most_shards"
        if shards < max(1, self.copies):
            return f"shards is {shards}, it must be at least {max(1, self.copies)}: each expert is to be on so many"
        if shards < self.least:
            part = math.ceil(self.experts * self.copies / shards)
            return (
                f"shards is {shards}, each would hold {part} of a layer's {self.experts} experts (copies: {self.copies}"
                f"), and has memory for {self.each}: keep at least {self.least} shards"
            )
        return ""


class BusyMeter:
    """How busy each shard was, from the seconds that it has computed by its own count, as they are looked at.

    Args:
        window_s: how far back it looks.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._seen: dict[str, deque[tuple[float, float]]] = {}

    def busy(self, now: float, computed: Mapping[int, tuple[str, float]]) -> dict[int, float]:
        """Take in what each shard's process, by its name, has computed; return the busy part of those seen twice."""
        self._seen = {name: self._seen.get(name, deque()) for name, _ in computed.values()}
        return {
            shard: share
            for shard, (name, seconds) in computed.items()
            if (share := self._share(self._seen[name], now, seconds)) is not None
        }

    def _share(self, seen: deque[tuple[float, float]], now: float, seconds: float) -> float | None:
        seen.append((now, seconds))
        while len(seen) > 2 and seen[1][0] <= now - self._window_s:
            seen.popleft()
        since, before = seen[0]
        return min(1.0, max(0.0, seconds - before) / (now - since)) if now > since else None


@dataclass(slots=True)
class Autoscaler:
    """Finds the number of shards at which each computes `balance.autoscale_target` of the time.

    As Serve's own autoscaling does, it takes what all shards compute together over the target, and changes the number
    only after it has been wrong in the same direction for a while (`autoscale_up_seconds`, `autoscale_down_seconds`).
    Between target and target minus a fifth of it nothing changes: the last shard that came must not be the first to go.
    """

    config: BalanceConfig
    limits: Limits
    _since: dict[str, float] = field(default_factory=dict)

    def wanted(self, now: float, shards: int, busy: Mapping[int, float]) -> int:
        """How many shards are wanted now.

        Args:
            shards: how many are wanted until now.
            busy: of each shard that is there, the part of the last while in which it computed, 0 to 1.
        """
        bounds = self._bounds()
        if bounds is None:
            return shards
        fit = min(max(self._fitting(shards, busy), bounds[0]), bounds[1])
        direction = "up" if fit > shards else "down" if fit < shards else ""
        self._since = {direction: self._since.get(direction, now)} if direction else {}
        waits = {"up": self.config.autoscale_up_seconds, "down": self.config.autoscale_down_seconds}
        if not direction or now - self._since[direction] < waits[direction]:
            return shards
        self._since = {}
        return fit

    def _bounds(self) -> tuple[int, int] | None:
        """The fewest and the most shards, as configured and possible; None if it is not to act."""
        most = min(self.config.autoscale_max_shards, self.limits.most)
        least = max(self.config.autoscale_min_shards, self.limits.least)
        return (least, most) if self.config.autoscale_max_shards and least <= most else None

    def _fitting(self, shards: int, busy: Mapping[int, float]) -> int:
        """How many shards what is computed now would keep busy as wanted; those that say nothing change nothing."""
        if len(busy) < shards:  # some are coming, or have died: the others' load will change
            return shards
        total, target = sum(busy.values()), self.config.autoscale_target
        if total / shards > target:
            return math.ceil(total / target)
        fewer = max(1, math.ceil(total / (target * (1 - SLACK))))
        return min(shards, fewer)
