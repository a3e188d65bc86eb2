"""Packing: the heaviest copies first, each to the shard that is then the lightest (LPT), all layers at once.

Graham's rule (Bounds on multiprocessing timing anomalies, 1969), with room for so many copies at each shard, copies of
an expert on different shards and nodes, and shards of different speed. L layers, E experts, S shards.
"""

import numpy as np
from numpy.typing import NDArray

from cluster.balance.layout import Floats, Layout

Ints = NDArray[np.int64]
NEAR = 1e-6  # of the heaviest copy: shards that differ by less are as light


def pack(layout: Layout, turned: bool = False) -> None:
    """Place what `copies_LE` means to be held and is not held yet; give up copies beyond the least that find no room.

    Args:
        turned: of shards that are as light, each layer begins with another, so that the heat of all is spread.

    Raises:
        ValueError: no room for the least copies of an expert, however the others are moved.
    """
    missing_LE = layout.copies_LE - layout.held_LES.sum(axis=2)
    order_LE = np.argsort(np.where(missing_LE > 0, -layout.share_LE, np.inf), axis=1, kind="stable")
    packing, layers = _Packing(layout, turned), np.arange(len(order_LE))
    for rank in range(int((missing_LE > 0).sum(axis=1).max(initial=0))):
        missing_L = missing_LE[layers, order_LE[:, rank]]
        active = np.flatnonzero(missing_L)
        packing.place(active, order_LE[active, rank], missing_L[active])
    for layer, expert in packing.homeless:
        if layout.held_LES[layer, expert].sum() < layout.terrain.copies:
            _make_room(layout, layer, expert)
    layout.settle()


class _Packing:
    """What the shards bear, and in `common_LSS` what each bears of experts that another holds too.

    Shards that have much in common cannot relieve each other: where an expert has several holders they should be such
    as have little in common yet.
    """

    def __init__(self, layout: Layout, turned: bool) -> None:
        self._layout = layout
        self._share_LE, self._load_LS = layout.share_LE, layout.loads()
        layers, _, shards = layout.held_LES.shape
        self._common_LSS = np.zeros((layers, shards, shards), np.float32)
        turn_LS = (np.arange(shards) - np.arange(layers)[:, None] * max(shards // layers, 1)) % shards
        self._turn_LS = turn_LS * (NEAR * self._share_LE.max(axis=1, keepdims=True) / shards) * turned
        self.homeless: list[tuple[int, int]] = []

    def place(self, layers: Ints, experts: Ints, missing: Ints) -> None:
        """Place so many copies of one expert in each of the layers; `homeless` has those without room."""
        rows, shards = np.nonzero(self._layout.held_LES[layers, experts])
        common_aS = np.zeros((len(layers), self._load_LS.shape[1]))
        np.add.at(common_aS, rows, self._common_LSS[layers[rows], shards])
        for step in range(int(missing.max(initial=0))):
            left = np.flatnonzero(missing > step)
            chosen, found = self._lightest(layers[left], experts[left], common_aS[left])
            homeless = left[~found]
            self.homeless += zip(layers[homeless].tolist(), experts[homeless].tolist(), strict=True)
            left, chosen = left[found], chosen[found]
            self._hold(layers[left], experts[left], chosen)
            common_aS[left] += self._common_LSS[layers[left], chosen]

    def _lightest(self, layers: Ints, experts: Ints, common_aS: Floats) -> tuple[Ints, NDArray[np.bool_]]:
        """The shard that is the lightest with the expert, in each layer, and whether any has room."""
        layout, terrain = self._layout, self._layout.terrain
        held_aS = layout.held_LES[layers, experts]
        times_aS = (self._load_LS[layers] + self._share_LE[layers, experts][:, None]) * terrain.slow_S
        times_aS += common_aS + self._turn_LS[layers]
        times_aS[held_aS | (layout.free_LS[layers] <= 0)] = np.inf
        if terrain.apart > 1:
            times_aS = _apart(layout, held_aS, times_aS)
        chosen = times_aS.argmin(axis=1)
        return chosen, np.isfinite(times_aS[np.arange(len(layers)), chosen])

    def _hold(self, layers: Ints, experts: Ints, shards: Ints) -> None:
        """Let a shard of each layer hold an expert."""
        layout, share_a = self._layout, self._share_LE[layers, experts]
        rows, others = np.nonzero(layout.held_LES[layers, experts])
        self._common_LSS[layers[rows], shards[rows], others] += share_a[rows]
        self._common_LSS[layers[rows], others, shards[rows]] += share_a[rows]
        layout.held_LES[layers, experts, shards] = True
        layout.free_LS[layers, shards] -= 1
        self._load_LS[layers, shards] += share_a


def _apart(layout: Layout, held_aS: NDArray[np.bool_], times_aS: Floats) -> Floats:
    """Rule out shards on nodes that hold the expert while it is on too few nodes, where others have room."""
    terrain = layout.terrain
    on_aN = np.zeros((len(held_aS), terrain.nodes), np.bool_)
    rows, shards = np.nonzero(held_aS)
    on_aN[rows, terrain.node_S[shards]] = True
    short_a = on_aN.sum(axis=1) < terrain.apart
    parted_aS = np.where(on_aN[:, terrain.node_S] & short_a[:, None], np.inf, times_aS)
    possible_aS = np.isfinite(parted_aS).any(axis=1, keepdims=True)
    return np.where(possible_aS, parted_aS, times_aS)


def _make_room(layout: Layout, layer: int, expert: int) -> None:
    """Place a copy for which only shards that hold it have room: another expert goes there and leaves its place."""
    held_ES, free_S, share_E = layout.held_LES[layer], layout.free_LS[layer], layout.share_LE[layer]
    node_S = layout.terrain.node_S
    taken = set(node_S[held_ES[expert]].tolist())
    options = [
        (int(node_S[source]) in taken, abs(float(share_E[other] - share_E[expert])), other, source, target)
        for target in np.flatnonzero(free_S > 0).tolist()
        for source in np.flatnonzero(~held_ES[expert]).tolist()
        for other in np.flatnonzero(held_ES[:, source] & ~held_ES[:, target]).tolist()
    ]
    if not options:
        _place_plainly(layout, layer)
        return
    _, _, other, source, target = min(options)
    held_ES[other, source], held_ES[other, target], held_ES[expert, source] = False, True, True
    free_S[target] -= 1


def _place_plainly(layout: Layout, layer: int) -> None:
    """Place the least copies of all experts of a layer anew, each on the shards with the most room left.

    That finds a way wherever there is one (Gale and Ryser's theorem), whatever it makes of the load.
    """
    held_ES, free_S, copies = layout.held_LES[layer], layout.free_LS[layer], layout.terrain.copies
    free_S += held_ES.sum(axis=0)
    held_ES[:] = False
    for expert in range(len(held_ES)):
        roomiest = np.argsort(-free_S, kind="stable")[:copies]
        if free_S[roomiest[-1]] <= 0:
            raise ValueError(f"slots_S leaves no room for {copies} copies of an expert: add memory")
        held_ES[expert, roomiest] = True
        free_S[roomiest] -= 1
