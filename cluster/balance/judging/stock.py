"""The supply of a cluster, from what its shards say of themselves. L MoE layers, E experts of a layer, S shards."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.balance.judging.loads import TimedLoad
from cluster.balance.moves import holds
from cluster.balance.supply import Supply
from experts.costs import ShardCosts, equal_costs
from experts.placement import Placement

# A shard that was replaced proves itself before it is given more.
YOUNG_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the balancer knows of the model: its MoE layers' numbers, experts of each, bytes of one of one layer."""

    layers: tuple[int, ...]
    experts: int
    expert_bytes: int


class ShardEntry(Protocol):
    """What is read of a shard's entry in the registry."""

    @property
    def index(self) -> int:
        """Which shard it is."""

    @property
    def node(self) -> str:
        """Where it runs."""

    @property
    def state(self) -> str:
        """loading, ready, draining or drained."""

    @property
    def started_ns(self) -> int:
        """Wall clock."""

    @property
    def replica(self) -> str:
        """Which process of the shard."""

    @property
    def computed_s(self) -> float:
        """Seconds that it has computed."""


@dataclass(frozen=True, slots=True)
class Stock:
    """The shards: the youngest entry of each, how many are `wanted`, and the bytes that each has `room` for."""

    entries: Mapping[int, ShardEntry]
    wanted: int
    copies: int = 1
    extra_copies: float = 0.0
    room: Mapping[int, int] | None = None

    def supply(self, current: Placement, facts: ModelFacts, costs: ShardCosts | None) -> Supply:
        """What each shard may hold: its part of the experts' copies, and the extra ones; nothing if it is to go."""
        layers, shards = len(facts.layers), current.shards
        own = math.ceil(facts.experts * self.copies / max(1, min(self.wanted, facts.experts)))
        each = layers * min(facts.experts, own) + math.floor(layers * self.extra_copies)
        held_S = held_by_shards(current, facts.layers)
        # What it holds it has room for, also where it was given more by a placement file.
        slots_S = np.maximum(min(each, layers * facts.experts), held_S)
        slots_S[min(self.wanted, shards) :] = 0
        for shard, room in (self.room or {}).items():
            if facts.expert_bytes and shard < shards and slots_S[shard]:
                slots_S[shard] = min(slots_S[shard], max(int(held_S[shard]), room // facts.expert_bytes))
        nodes = tuple(self.entries[shard].node if shard in self.entries else "" for shard in range(shards))
        fitting = costs is not None and len(costs.call_us_S) == shards
        known = costs if costs is not None and fitting else equal_costs(shards)
        return Supply(slots_S, known, nodes, self.copies, facts.expert_bytes)

    def absent(self, current: Placement) -> dict[int, str]:
        """The wanted shards that hold experts and cannot load now, and why."""
        needed = [shard for shard in sorted(current.holding) if shard < self.wanted]
        return {shard: why for shard in needed if (why := self._away(shard))}

    def unfit(self, current: Placement, wall_s: float, suspects: Iterable[int] = ()) -> dict[int, str]:
        """The shards that must not be given more, and why."""
        found = dict.fromkeys(suspects, "suspect")
        for shard in range(min(self.wanted, current.shards)):
            if away := self._away(shard):
                found[shard] = away
            elif shard in current.holding and wall_s - self.entries[shard].started_ns / 1e9 < YOUNG_SECONDS:
                found[shard] = f"younger than {YOUNG_SECONDS:.0f} s"
        return found

    def change(self, current: Placement) -> str:
        """Why shards need other experts, whatever that gains: some are to go, or have come and hold nothing; or ''."""
        if leaving := sorted(shard for shard in current.holding if shard >= self.wanted):
            return f"shards {', '.join(map(str, leaving))} are to go"
        there = range(min(self.wanted, current.shards, current.experts))
        come = [shard for shard in there if shard not in current.holding and not self._away(shard)]
        return f"shards {', '.join(map(str, come))} have come" if come else ""

    @property
    def computed(self) -> dict[int, tuple[str, float]]:
        """Of each shard that serves and is wanted, its process and the seconds that it has computed."""
        return {
            shard: (one.replica, one.computed_s)
            for shard, one in self.entries.items()
            if shard < self.wanted and one.state == "ready"
        }

    def _away(self, shard: int) -> str:
        entry = self.entries.get(shard)
        if entry is None:
            return "not there"
        return "" if entry.state == "ready" else entry.state


def held_by_shards(placement: Placement, layers: Iterable[int]) -> NDArray[np.int64]:
    """The (layer, expert) copies that each shard holds, [S]."""
    held_S = np.zeros(placement.shards, np.int64)
    for layer in layers:
        held_S += holds(placement.layer(layer), placement.shards).sum(axis=0)
    return held_S


def costs_of(loads: Iterable[TimedLoad]) -> ShardCosts | None:
    """The mean of what routers have measured lately of the shards' costs; None where none says."""
    latest = {one.load.router: one.load.costs for one in loads if one.load.costs is not None}
    sizes = {len(costs.call_us_S) for costs in latest.values()}
    if len(sizes) != 1:
        return None
    means = (
        np.mean([getattr(costs, name) for costs in latest.values()], axis=0)
        for name in ("call_us_S", "expert_us_S", "pair_us_S")
    )
    return ShardCosts(*means)


def suspects_of(loads: Iterable[TimedLoad]) -> frozenset[int]:
    """The shards that a router's latest report calls suspect."""
    latest = {one.load.router: one.load.suspect for one in loads}
    return frozenset(shard for suspects in latest.values() for shard in suspects)
