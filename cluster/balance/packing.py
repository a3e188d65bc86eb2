"""Packing: the heaviest copies first, each to the shard that is then the lightest (LPT), all layers at once.

Graham's rule (Bounds on multiprocessing timing anomalies, 1969), with room for so many copies at each shard, copies of
an expert on different shards and nodes, and shards of different speed. L layers, E experts, S shards.
"""

import numpy as np
from numpy.typing import NDArray

from cluster.balance.layout import Floats, Layout

Ints = NDArray[np.int64]


def pack(layout: Layout) -> None:
    """Place what `copies_LE` means to be held and is not held yet; give up copies beyond the least that find no room.

    Raises:
        ValueError: no room for the least copies of an expert, however the others are moved.
    """
    missing_LE = layout.copies_LE - layout.held_LES.sum(axis=2)
    shares_LE = layout.share_LE
    order_LE = np.argsort(np.where(missing_LE > 0, -shares_LE, np.inf), axis=1, kind="stable")
    loads_LS, layers = layout.loads(), np.arange(len(order_LE))
    homeless: list[tuple[int, int]] = []
    for rank in range(int((missing_LE > 0).sum(axis=1).max(initial=0))):
        expert_L = order_LE[:, rank]
        missing_L = missing_LE[layers, expert_L]
        for step in range(int(missing_L.max())):
            active = np.flatnonzero(missing_L > step)
            homeless += _place(layout, loads_LS, shares_LE, active, expert_L[active])
    for layer, expert in homeless:
        if layout.held_LES[layer, expert].sum() < layout.terrain.copies:
            _make_room(layout, layer, expert)
    layout.settle()


def _place(layout: Layout, loads_LS: Floats, shares_LE: Floats, layers: Ints, experts: Ints) -> list[tuple[int, int]]:
    """Place a copy of one expert in each of the layers; return those without room, as (layer, expert)."""
    terrain = layout.terrain
    held_aS = layout.held_LES[layers, experts]
    times_aS = (loads_LS[layers] + shares_LE[layers, experts][:, None]) * terrain.slow_S
    times_aS[held_aS | (layout.free_LS[layers] <= 0)] = np.inf
    if terrain.apart > 1:
        times_aS = _apart(layout, held_aS, times_aS)
    chosen = times_aS.argmin(axis=1)
    found = np.isfinite(times_aS[np.arange(len(layers)), chosen])
    homeless = list(zip(layers[~found].tolist(), experts[~found].tolist(), strict=True))
    layers, experts, chosen = layers[found], experts[found], chosen[found]
    layout.held_LES[layers, experts, chosen] = True
    layout.free_LS[layers, chosen] -= 1
    loads_LS[layers, chosen] += shares_LE[layers, experts]
    return homeless


def _apart(layout: Layout, held_aS: NDArray[np.bool_], times_aS: Floats) -> Floats:
    """Rule out shards on nodes that hold the expert while it is on too few nodes, where others have room."""
    terrain = layout.terrain
    on_aN = np.zeros((len(held_aS), terrain.nodes), np.bool_)
    rows, shards = np.nonzero(held_aS)
    on_aN[rows, terrain.node_S[shards]] = True
    short_a = on_aN.sum(axis=1) < terrain.apart
    parted_aS = np.where(on_aN[:, terrain.node_S] & short_a[:, None], np.inf, times_aS)
    possible_a = np.isfinite(parted_aS).any(axis=1)
    return np.where(possible_a[:, None], parted_aS, times_aS)


def _make_room(layout: Layout, layer: int, expert: int) -> None:
    """Place a copy for which only shards that hold it have room: another expert goes there and leaves its place."""
    held_ES, free_S, share_E = layout.held_LES[layer], layout.free_LS[layer], layout.share_LE[layer]
    taken = set(layout.terrain.node_S[held_ES[expert]].tolist())
    options = [
        (
            int(layout.terrain.node_S[source]) in taken,
            abs(float(share_E[other] - share_E[expert])),
            other,
            source,
            target,
        )
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
