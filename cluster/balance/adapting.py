"""A plan from what is held now: what is too much goes, what is missing comes, then swaps that deserve their loads."""

import numpy as np

from cluster.balance.copies import copies_of, trimmed
from cluster.balance.layout import Bools, Counts, Floats, Layout, Terrain
from cluster.balance.packing import pack
from cluster.balance.quotas import quotas
from cluster.balance.swapping import Swapping

ROUNDS = 400
# A copy that bears less than this part of a shard's load is as good as sand: dividing it further gains nothing.
SAND = 0.25


def adapted(terrain: Terrain, slots_S: Counts, now_LES: Bools, price: float) -> list[Bools]:
    """Return what `now_LES` becomes by few loads, each of which costs `price`; none where slots leave no room for it."""
    held_LES = now_LES & terrain.usable_S
    held_LE = held_LES.sum(axis=2)
    budget, most = int(slots_S.sum()), int(terrain.usable_S.sum())
    least_LE = np.full(held_LE.shape, terrain.copies)
    wanted_LE = copies_of(terrain.weight_LE, least_LE, budget, most, SAND * terrain.bound_L)
    stay_LE = trimmed(terrain.weight_LE, held_LE, terrain.copies, wanted_LE, budget)
    copies_LE = np.maximum(stay_LE, wanted_LE)
    layout = Layout(terrain, held_LES, np.zeros((len(held_LES), len(slots_S)), np.int64), copies_LE)
    _drop_surplus(layout, stay_LE)
    _empty_full_shards(layout, slots_S)
    missing_L = (copies_LE - held_LES.sum(axis=2)).sum(axis=1)
    left_S = np.where(terrain.usable_S, slots_S, 0) - held_LES.sum(axis=(0, 1))
    layout.free_LS = quotas(missing_L, left_S, held_LES.shape[1] - held_LES.sum(axis=1))
    try:
        pack(layout)
    except ValueError:
        return []
    Swapping(layout, now_LES, price).run(ROUNDS)
    return [layout.held_LES]


def _drop_surplus(layout: Layout, stay_LE: Counts) -> None:
    """Drop the copies beyond those that stay, from the slowest shards first; nodes stay different where they must."""
    for layer, expert in np.argwhere(layout.held_LES.sum(axis=2) > stay_LE).tolist():
        held_S = layout.held_LES[layer, expert]
        while held_S.sum() > stay_LE[layer, expert]:
            times_S = _times(layout, layer)
            held_S[max(np.flatnonzero(held_S).tolist(), key=lambda s: (_spare(layout, held_S, s), times_S[s]))] = False


def _empty_full_shards(layout: Layout, slots_S: Counts) -> None:
    """Drop the lightest copies of shards that hold more than they may; they are placed again elsewhere."""
    over_S = layout.held_LES.sum(axis=(0, 1)) - slots_S
    for shard in np.flatnonzero((over_S > 0) & layout.terrain.usable_S).tolist():
        shares_LE = np.where(layout.held_LES[:, :, shard], layout.share_LE, np.inf)
        dropped = np.argsort(shares_LE, axis=None, kind="stable")[: over_S[shard]]
        layout.held_LES.reshape(-1, len(slots_S))[dropped, shard] = False


def _spare(layout: Layout, held_S: Bools, shard: int) -> bool:
    """Whether the other holders are on enough nodes."""
    others_S = held_S.copy()
    others_S[shard] = False
    return len(np.unique(layout.terrain.node_S[others_S])) >= layout.terrain.apart


def _times(layout: Layout, layer: int) -> Floats:
    """Each shard's time in a layer."""
    times_S: Floats = (layout.share_LE[layer] @ layout.held_LES[layer]) * layout.terrain.slow_S
    return times_S
