"""A plan from nothing: copies for heat, then packing, then swaps."""

import numpy as np

from cluster.balance.copies import copies_of
from cluster.balance.layout import Counts, Layout, Terrain
from cluster.balance.packing import pack
from cluster.balance.quotas import quotas
from cluster.balance.swapping import Swapping

ROUNDS = 400


def fresh(terrain: Terrain, slots_S: Counts) -> Layout:
    """Return a layout that uses all slots, wherever copies can make a shard lighter."""
    layers, experts = terrain.weight_LE.shape
    least_LE = np.full((layers, experts), terrain.copies)
    copies_LE = copies_of(terrain.weight_LE, least_LE, int(slots_S.sum()), int(terrain.usable_S.sum()))
    free_LS = quotas(copies_LE.sum(axis=1), slots_S, np.full((layers, len(slots_S)), experts))
    layout = Layout(terrain, np.zeros((layers, experts, len(slots_S)), np.bool_), free_LS, copies_LE)
    pack(layout)
    Swapping(layout).run(ROUNDS)
    return layout
