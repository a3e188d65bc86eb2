"""Plans from nothing: copies for heat, then packing, then swaps; or packing, swaps, and copies for what spills over."""

import numpy as np

from cluster.balance.copies import copies_of
from cluster.balance.layout import Counts, Layout, Terrain
from cluster.balance.packing import pack
from cluster.balance.quotas import quotas
from cluster.balance.spilling import Spilling
from cluster.balance.swapping import Swapping

ROUNDS = 400


def fresh(terrain: Terrain, slots_S: Counts) -> tuple[Layout, Layout]:
    """Return two layouts that use all slots, wherever copies can make a shard lighter.

    The first shares evenly and is best where there are copies enough; the second needs the fewest. In each layer a shard
    has as many slots in one as in the other, so that layers can be taken from both.
    """
    layers, experts = terrain.weight_LE.shape
    least_LE = np.full((layers, experts), terrain.copies)
    copies_LE = copies_of(terrain.weight_LE, least_LE, int(slots_S.sum()), int(terrain.usable_S.sum()))
    free_LS = quotas(copies_LE.sum(axis=1), slots_S, np.full((layers, len(slots_S)), experts))
    return _even(terrain, copies_LE, free_LS), _spilled(terrain, copies_LE, free_LS)


def _even(terrain: Terrain, copies_LE: Counts, free_LS: Counts) -> Layout:
    """Copies first, each of which bears the same."""
    layout = _empty(terrain, copies_LE, free_LS)
    pack(layout)
    Swapping(layout).run(ROUNDS)
    return layout


def _spilled(terrain: Terrain, copies_LE: Counts, free_LS: Counts) -> Layout:
    """The least copies first, then those of experts that are too much for one shard, then what room is left for."""
    layout = _empty(terrain, np.full_like(copies_LE, terrain.copies), free_LS)
    pack(layout)
    Swapping(layout).run(ROUNDS)
    Spilling(layout).run(copies_LE.sum(axis=1) - layout.copies_LE.sum(axis=1))
    rest_L = copies_LE.sum(axis=1) - layout.copies_LE.sum(axis=1)
    for layer in np.flatnonzero(rest_L > 0).tolist():
        one = slice(layer, layer + 1)
        budget, most = int(copies_LE[layer].sum()), int(terrain.usable_S.sum())
        layout.copies_LE[one] = copies_of(terrain.weight_LE[one], layout.copies_LE[one], budget, most)
    pack(layout)
    return layout


def _empty(terrain: Terrain, copies_LE: Counts, free_LS: Counts) -> Layout:
    """A layout that holds nothing."""
    held_LES = np.zeros((*copies_LE.shape, free_LS.shape[1]), np.bool_)
    return Layout(terrain, held_LES, free_LS.copy(), copies_LE.copy())
