"""The placement for more or fewer shards that moves no expert without need. A pure function.

Where shards have come, only they take experts over, and the others give some up: so a shard that is full can take part.
Where shards are to go, what they hold goes to the others. L MoE layers, E experts, S shards.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.balance.moves import holds
from cluster.balance.planning import check_supply
from cluster.balance.supply import Supply
from experts.demand import Demand
from experts.placement import LayerPlacement, Placement, placement_of_layers

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

# An expert of nearly the whole difference between two shards would only let them change places. Of two experts one is
# always lighter than this, so a shard that has come never stays empty beside one that has two.
WORTH = 0.9
MOST_ROUNDS = 4


def resized(demand: Demand, supply: Supply, current: Placement) -> Placement:
    """Return a placement on the shards that the supply lets hold experts, with loads about even in each layer.

    A shard's load in a layer is the tokens of its experts, each by the number of its holders; an expert without a token
    counts a little, so that also the numbers of experts become even.

    Returns:
        A placement with the epoch of `current`, `special` naming every layer of the demand.

    Raises:
        ValueError: the shards cannot hold `supply.copies` of each expert.
    """
    layers, experts = demand.tokens_LE.shape
    check_supply(supply, layers, experts)
    left_S = supply.slots_S.copy()
    placed = []
    for row, number in enumerate(demand.layers):
        # What is left for a layer: its part of the slots that are not taken yet.
        room_S = -(-left_S // (layers - row))
        weight_E = demand.tokens_LE[row] + 0.05 * demand.tokens_LE[row].mean() + 1e-9
        held_ES = _Layer(holds(current.layer(number), current.shards), weight_E, room_S, supply).spread()
        left_S -= held_ES.sum(axis=0)
        placed.append(_named(held_ES, current.layer(number)))
    special = dict(zip(demand.layers, placed, strict=True))
    return placement_of_layers(current.shards, special, current.epoch)


@dataclass(slots=True)
class _Layer:
    """A layer's experts on their way: `held_ES` changes, `room_S` is how many each shard may hold of it."""

    held_ES: Bools
    weight_E: Floats
    room_S: NDArray[np.int64]
    supply: Supply

    def spread(self) -> Bools:
        """Return who holds what in the end."""
        come_S = self.supply.usable_S & ~self.held_ES.any(axis=0)
        self.held_ES &= self.supply.usable_S
        takers = np.flatnonzero(come_S if come_S.any() else self.supply.usable_S)
        self._fill_up(np.flatnonzero(self.supply.usable_S))
        self._even_out(takers)
        self._fit()
        return self.held_ES

    def _fill_up(self, shards: Iterable[int]) -> None:
        """Give each expert as many holders as it must have, the heaviest first, the lightest shards first."""
        for expert in np.argsort(-self.weight_E, kind="stable").tolist():
            while self.held_ES[expert].sum() < self.supply.copies:
                free = [shard for shard in shards if not self.held_ES[expert, shard]]
                load_S, full_S = self._load_S(), self.held_ES.sum(axis=0) >= self.room_S
                best = min(free, key=lambda s: (self._crowds(expert, s), full_S[s], load_S[s]))
                self.held_ES[expert, best] = True

    def _even_out(self, takers: Sequence[int] | NDArray[np.int64]) -> None:
        """Move experts one by one from the fullest shard that has one to spare to the lightest taker."""
        usable = np.flatnonzero(self.supply.usable_S)
        for _ in range(MOST_ROUNDS * self.held_ES.size):  # each move brings two loads closer; for the rest of doubt
            load_S = self._load_S()
            light = int(min(takers, key=lambda shard: load_S[shard]))
            for full in usable[np.argsort(-load_S[usable], kind="stable")].tolist():
                if (expert := self._worth_moving(full, light, load_S)) is not None:
                    self.held_ES[expert, full], self.held_ES[expert, light] = False, True
                    break
            else:
                return

    def _worth_moving(self, full: int, light: int, load_S: Floats) -> int | None:
        """The expert that brings both loads closest together; None if none does, or the lighter has no room."""
        if full == light or self.held_ES[:, light].sum() >= self.room_S[light]:
            return None
        # What each expert would cost the lighter shard, which may be the slower one.
        part_E = self.weight_E / self.held_ES.sum(axis=1) * self.supply.costs.pair_us_S[light]
        gap = load_S[full] - load_S[light]
        movable = [
            expert
            for expert in np.flatnonzero(self.held_ES[:, full] & ~self.held_ES[:, light]).tolist()
            if part_E[expert] <= WORTH * gap and not self._crowds(expert, light, full)
        ]
        return min(movable, key=lambda expert: abs(part_E[expert] - gap / 2), default=None)

    def _fit(self) -> None:
        """Where a shard holds more than it may, drop copies that others hold often enough, the lightest first."""
        for shard in np.flatnonzero(self.held_ES.sum(axis=0) > self.room_S):
            for expert in sorted(np.flatnonzero(self.held_ES[:, shard]), key=lambda one: self.weight_E[one]):
                if self.held_ES[:, shard].sum() <= self.room_S[shard]:
                    break
                if self.held_ES[expert].sum() > self.supply.copies:
                    self.held_ES[expert, shard] = False

    def _load_S(self) -> Floats:
        part_E = self.weight_E / np.maximum(1, self.held_ES.sum(axis=1))
        load_S: Floats = part_E @ self.held_ES * self.supply.costs.pair_us_S[: self.held_ES.shape[1]]
        return load_S

    def _crowds(self, expert: int, shard: int, instead_of: int = -1) -> bool:
        """Whether a further copy would be on a node that has one, though there are enough nodes."""
        nodes = self.supply.nodes_S
        usable = {nodes[one] for one in np.flatnonzero(self.supply.usable_S)}
        if self.supply.copies < 2 or len(usable) < self.supply.copies:
            return False
        return nodes[shard] in {nodes[one] for one in np.flatnonzero(self.held_ES[expert]) if one != instead_of}


def _named(held_ES: Bools, before: LayerPlacement) -> LayerPlacement:
    """The layer's placement; who was asked first stays first while it holds the expert."""
    holders = []
    for expert, held_S in enumerate(held_ES):
        now = [int(shard) for shard in np.flatnonzero(held_S)]
        stay = [shard for shard in before.holders[expert] if shard in now]
        holders.append((*stay, *(shard for shard in now if shard not in stay)))
    return LayerPlacement(tuple(holders))
