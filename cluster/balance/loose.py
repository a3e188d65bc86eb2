"""A plan whose layers use a shard's memory as they need it: much where it holds what is cold, little where it is hot.

Packed as if each shard had room for all, then what is too much in all layers together goes elsewhere. L layers,
E experts, S shards.
"""

import numpy as np

from cluster.balance.layout import Counts, Layout, Terrain
from cluster.balance.packing import pack
from cluster.balance.swapping import Swapping

ROUNDS = 400


def loose(terrain: Terrain, copies_LE: Counts, slots_S: Counts) -> Layout | None:
    """Return a layout with the copies `copies_LE`; none where the shards' memory leaves no way that was found."""
    layers, experts = copies_LE.shape
    free_LS = np.tile(np.where(terrain.usable_S, experts, 0), (layers, 1))
    layout = Layout(terrain, np.zeros((layers, experts, len(slots_S)), np.bool_), free_LS, copies_LE.copy())
    pack(layout, turned=True)
    layout.free_LS[:] = 0
    if not _fit(layout, slots_S):
        return None
    Swapping(layout).run(ROUNDS)
    return layout


def _fit(layout: Layout, slots_S: Counts) -> bool:
    """Move the lightest experts from shards that hold too much to those with room that are lightest in their layer."""
    room_S, share_LE, times_LS = slots_S - layout.held_LES.sum(axis=(0, 1)), layout.share_LE, layout.times()
    for shard in np.argsort(room_S, kind="stable").tolist():
        order = np.argsort(np.where(layout.held_LES[:, :, shard], share_LE, np.inf), axis=None, kind="stable")
        for place in order[: int(layout.held_LES[:, :, shard].sum())].tolist():
            if room_S[shard] >= 0:
                break
            layer, expert = divmod(place, share_LE.shape[1])
            target = _target(layout, layer, expert, shard, np.where(room_S > 0, times_LS[layer], np.inf))
            if target is not None:
                layout.held_LES[layer, expert, [shard, target]] = False, True
                room_S[[shard, target]] += 1, -1
                times_LS[layer, target] += share_LE[layer, expert] * layout.terrain.slow_S[target]
                times_LS[layer, shard] -= share_LE[layer, expert] * layout.terrain.slow_S[shard]
    return bool((room_S >= 0).all())


def _target(layout: Layout, layer: int, expert: int, source: int, times_S: np.ndarray) -> int | None:
    """The lightest shard with room that does not hold the expert, on another node than its other holders."""
    terrain, held_S = layout.terrain, layout.held_LES[layer, expert]
    times_S = np.where(held_S, np.inf, times_S)
    if terrain.apart > 1:
        others = [shard for shard in np.flatnonzero(held_S).tolist() if shard != source]
        times_S[np.isin(terrain.node_S, terrain.node_S[others])] = np.inf
    target = int(times_S.argmin())
    return target if np.isfinite(times_S[target]) else None
