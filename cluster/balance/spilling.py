"""Copies where the fullest shard spills over: each lets one shard give the emptiest what it has too much.

Shares need not be even, as who is asked is chosen by batch. Whoever is given or gives is then at the mean, so S - 1
copies balance S shards: McNaughton's wrap-around rule (Scheduling with deadlines and loss functions, 1959), by which a
machine that is full hands the rest of its last job to the next. All layers at once; L layers, a of them still active,
E experts, S shards.
"""

import numpy as np
from numpy.typing import NDArray

from cluster.balance.layout import Counts, Floats, Layout

Ints = NDArray[np.int64]
NEAR = 1e-3  # of the mean: a layer whose fullest shard is this close to it is done


class Spilling:
    """What each copy bears, `amount_LES`, and each shard, `load_LS`."""

    def __init__(self, layout: Layout) -> None:
        """Start from even shares."""
        self._layout = layout
        self._amount_LES = np.where(layout.held_LES, layout.share_LE[:, :, None], 0.0).astype(np.float32)
        self._load_LS = layout.loads()
        self._ideal_LS = layout.terrain.bound_L[:, None] / layout.terrain.slow_S

    def run(self, copies_L: Counts) -> None:
        """Add at most so many copies in each layer, while they make its fullest shard lighter."""
        left_L = copies_L.copy()
        active = np.flatnonzero(left_L > 0)
        while len(active):
            active = self._spill(active)
            left_L[active] -= 1
            active = active[left_L[active] > 0]
        self._layout.settle()

    def _spill(self, active: Ints) -> Ints:
        """Add one copy in each active layer; return the layers in which that was possible."""
        terrain, rows = self._layout.terrain, np.arange(len(active))
        over_aS = self._load_LS[active] - self._ideal_LS[active]
        full_a = (over_aS * terrain.slow_S).argmax(axis=1)
        spare_aS = np.where(terrain.usable_S, over_aS * terrain.slow_S, np.inf)
        empty_a = spare_aS.argmin(axis=1)
        needed_a = over_aS[rows, full_a] > NEAR * self._ideal_LS[active, full_a]
        expert_a = self._heaviest(active, full_a, empty_a)
        active, full_a, empty_a, expert_a = self._with_room(
            *(array[needed_a & (expert_a >= 0)] for array in (active, full_a, empty_a, expert_a))
        )
        over_a = self._load_LS[active, full_a] - self._ideal_LS[active, full_a]
        under_a = self._ideal_LS[active, empty_a] - self._load_LS[active, empty_a]
        amount_a = np.minimum(np.minimum(over_a, under_a), self._amount_LES[active, expert_a, full_a])
        self._layout.held_LES[active, expert_a, empty_a] = True
        self._layout.free_LS[active, empty_a] -= 1
        self._shift(active, expert_a, full_a, empty_a, amount_a)
        return active

    def _heaviest(self, active: Ints, full_a: Ints, empty_a: Ints) -> Ints:
        """The expert that bears most on the full shard and is not on the empty one; -1 where there is none."""
        held_LES = self._layout.held_LES
        amount_aE = np.where(held_LES[active, :, empty_a], 0.0, self._amount_LES[active, :, full_a])
        expert_a = amount_aE.argmax(axis=1)
        return np.where(amount_aE[np.arange(len(active)), expert_a] > 0, expert_a, -1)

    def _with_room(self, active: Ints, full_a: Ints, empty_a: Ints, expert_a: Ints) -> tuple[Ints, ...]:
        """Make room on the empty shards; return those where there is some then."""
        crowded = np.flatnonzero(self._layout.free_LS[active, empty_a] <= 0)
        kept = np.ones(len(active), np.bool_)
        for row in crowded.tolist():
            kept[row] = self._make_room(int(active[row]), int(full_a[row]), int(empty_a[row]))
        return tuple(array[kept] for array in (active, full_a, empty_a, expert_a))

    def _make_room(self, layer: int, full: int, empty: int) -> bool:
        """Move the lightest of the shard's experts that can go to one with room: best to the full shard itself."""
        held_ES, free_S = self._layout.held_LES[layer], self._layout.free_LS[layer]
        amount_ES, terrain = self._amount_LES[layer], self._layout.terrain
        target = full if free_S[full] > 0 else int(np.where(free_S > 0, -self._load_LS[layer], -np.inf).argmax())
        if free_S[target] <= 0 or target == empty:
            return False
        may_E = held_ES[:, empty] & ~held_ES[:, target]
        if terrain.apart > 1 and terrain.node_S[target] != terrain.node_S[empty]:
            there_E = held_ES[:, terrain.node_S == terrain.node_S[target]].any(axis=1)
            may_E &= ~there_E
        if not may_E.any():
            return False
        moved = int(np.where(may_E, amount_ES[:, empty], np.inf).argmin())
        held_ES[moved, empty], held_ES[moved, target] = False, True
        free_S[empty] += 1
        free_S[target] -= 1
        one = np.array([layer]), np.array([moved]), np.array([empty]), np.array([target])
        self._shift(*one, amount_ES[moved, empty][None])
        return True

    def _shift(self, layers: Ints, experts: Ints, sources: Ints, targets: Ints, amount_a: Floats) -> None:
        """Let the targets bear what the sources did."""
        self._amount_LES[layers, experts, sources] -= amount_a
        self._amount_LES[layers, experts, targets] += amount_a
        self._load_LS[layers, sources] -= amount_a
        self._load_LS[layers, targets] += amount_a
