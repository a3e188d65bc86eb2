"""Who holds what in all layers at once, while a plan is made. L layers, E experts, S shards, N nodes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.balance.moves import holds
from experts.placement import LayerPlacement

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Terrain:
    """What does not change while a plan is made.

    `weight_LE` are the microseconds that an expert costs a layer's call on a shard of mean speed, `slow_S` each
    shard's time over the mean one's, `usable_S` whether it may hold anything, `node_S` numbers the nodes. Each expert
    is to have `copies` holders at least, on `apart` nodes.
    """

    weight_LE: Floats
    slow_S: Floats
    usable_S: Bools
    node_S: Counts
    copies: int
    apart: int

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return int(self.node_S.max()) + 1

    @property
    def bound_L(self) -> Floats:
        """Each layer's time if all shards took the same: none is faster."""
        bound_L: Floats = self.weight_LE.sum(axis=1) / (1 / self.slow_S[self.usable_S]).sum()
        return bound_L

    def allows(self, held_LES: Bools) -> Bools:
        """Whether each layer is held by usable shards alone, by enough of them and on enough nodes, [L]."""
        on_LEN = np.stack([held_LES[:, :, self.node_S == node].any(axis=2) for node in range(self.nodes)], axis=2)
        enough_LE = (held_LES.sum(axis=2) >= self.copies) & (on_LEN.sum(axis=2) >= self.apart)
        allowed_L: Bools = enough_LE.all(axis=1) & ~held_LES[:, :, ~self.usable_S].any(axis=(1, 2))
        return allowed_L

    def layout(self, held_LES: Bools) -> "Layout":
        """The layout of those who hold an expert, without further room."""
        return Layout(self, held_LES, np.zeros((len(held_LES), held_LES.shape[2]), np.int64), held_LES.sum(axis=2))


@dataclass(slots=True)
class Layout:
    """Whether a shard holds an expert, `held_LES`, how many more it may hold, `free_LS`, and copies meant, `copies_LE`.

    An expert's weight is shared evenly by its copies, those too that are still to be placed.
    """

    terrain: Terrain
    held_LES: Bools
    free_LS: Counts
    copies_LE: Counts

    @property
    def share_LE(self) -> Floats:
        """What each copy of an expert bears."""
        shares_LE: Floats = self.terrain.weight_LE / np.maximum(self.copies_LE, 1)
        return shares_LE

    def loads(self) -> Floats:
        """What each shard bears, [L, S], before its speed."""
        loads_LS: Floats = np.matmul(self.share_LE[:, None, :], self.held_LES)[:, 0]
        return loads_LS

    def times(self) -> Floats:
        """Each shard's time for a call, [L, S]."""
        return self.loads() * self.terrain.slow_S

    def settle(self) -> None:
        """Count the copies that are placed: those that found no room are given up."""
        self.copies_LE = self.held_LES.sum(axis=2)


def held_of(layers: Sequence[LayerPlacement], shards: int) -> Bools:
    """Return who holds what under the placements of the layers, [L, E, S]."""
    return np.stack([holds(layer, shards) for layer in layers])


def placed(layout: Layout, before: Sequence[LayerPlacement | None]) -> list[LayerPlacement]:
    """Return the layers' placements; a layer in which nothing moves stays the object that it was before.

    An expert's home, its first holder, is chosen so that the homes alone are balanced too: the heaviest experts first,
    each at the holder that is home to the least.
    """
    weight_LE, slow_S = layout.terrain.weight_LE, layout.terrain.slow_S
    result = []
    for layer, old in enumerate(before):
        held_ES = layout.held_LES[layer]
        if old is not None and np.array_equal(holds(old, held_ES.shape[1]), held_ES):
            result.append(old)
        else:
            result.append(LayerPlacement(_with_homes(_holders(held_ES), weight_LE[layer], slow_S)))
    return result


def anyhow(held_LES: Bools) -> list[LayerPlacement]:
    """Return placements in which an expert's home is any holder: quickly, to be replayed."""
    return [LayerPlacement(tuple(map(tuple, _holders(held_ES)))) for held_ES in held_LES]


def _holders(held_ES: Bools) -> list[list[int]]:
    """The holders of each expert, ascending."""
    ends = np.cumsum(held_ES.sum(axis=1)).tolist()
    shards = np.nonzero(held_ES)[1].tolist()
    return [shards[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _with_homes(holders: list[list[int]], weight_E: Floats, slow_S: Floats) -> tuple[tuple[int, ...], ...]:
    """The holders of each expert, its home first."""
    home_load, slow, weight = [0.0] * len(slow_S), slow_S.tolist(), weight_E.tolist()
    for expert in np.argsort(-weight_E, kind="stable").tolist():
        shards, own = holders[expert], weight[expert]
        if len(shards) > 1:
            times = [(home_load[shard] + own) * slow[shard] for shard in shards]
            shards.insert(0, shards.pop(times.index(min(times))))
        home_load[shards[0]] += own
    return tuple(map(tuple, holders))
