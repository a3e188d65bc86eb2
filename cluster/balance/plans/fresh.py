"""Plans from nothing: copies for heat, then packing, then swaps; or packing, swaps, and copies for what spills over."""

from dataclasses import replace

import numpy as np

from cluster.balance.plans.copies import copies_of
from cluster.balance.plans.layout import Counts, Floats, Layout, Terrain
from cluster.balance.plans.loose import loose
from cluster.balance.plans.packing import pack
from cluster.balance.plans.quotas import quotas
from cluster.balance.plans.spilling import Spilling
from cluster.balance.plans.swapping import Swapping

ROUNDS = 400  # of swaps in a layer, at most
CHANCE = 0.01  # how much more time counts that leaves more to chance
CLOSE, FAR = 0.0005, 0.005  # to what copies allow: a plan is not made again; one of another kind is made
SMALL, NOISE = 4_000, 0.25  # plans are made again, all with fewer copies than SMALL together, and how wrongly


def fresh(terrain: Terrain, slots_S: Counts, tries: int) -> list[tuple[Layout, float]]:
    """Return layouts that use all slots, wherever copies can make a shard lighter, and what to count their times by.

    The first shares evenly and is best where there are copies enough; the second needs the fewest, and its time counts
    more, as it leaves more to the choice by batch. Where the first does not come close to what its copies allow, there
    is a third whose layers divide a shard's memory less evenly.
    """
    layers, experts = terrain.weight_LE.shape
    least_LE = np.full((layers, experts), terrain.copies)
    copies_LE = copies_of(terrain.weight_LE, least_LE, int(slots_S.sum()), int(terrain.usable_S.sum()))
    free_LS = quotas(copies_LE.sum(axis=1), slots_S, np.full((layers, len(slots_S)), experts))
    first, second = _even(terrain, copies_LE, free_LS, tries), _spilled(terrain, copies_LE, free_LS)
    layouts = [(first, 1.0), (second, 1 + CHANCE)]
    if (first.times().max(axis=1) > _floor(first) * (1 + FAR)).any() and (third := loose(terrain, copies_LE, slots_S)):
        layouts.append((third, 1.0))
    return layouts


def _even(terrain: Terrain, copies_LE: Counts, free_LS: Counts, tries: int) -> Layout:
    """Copies first, each of which bears the same.

    Swaps end where none alone helps. Small plans are made several times, from weights that are a little wrong, and each
    layer takes the best; in large ones there are so many swaps that it does not matter.
    """
    random = np.random.default_rng(0)
    best = _once(terrain, terrain, copies_LE, free_LS)
    for _ in range(min(tries, SMALL // int(copies_LE.sum()))):
        if (best.times().max(axis=1) <= _floor(best) * (1 + CLOSE)).all():
            break
        noise_LE = random.uniform(1 - NOISE, 1 + NOISE, copies_LE.shape)
        other = _once(terrain, replace(terrain, weight_LE=terrain.weight_LE * noise_LE), copies_LE, free_LS)
        better_L = other.times().max(axis=1) < best.times().max(axis=1)
        best.held_LES[better_L] = other.held_LES[better_L]
        best.settle()
    return best


def _floor(layout: Layout) -> Floats:
    """What no layer's slowest shard is below with these copies, each of which bears the same, [L]."""
    terrain = layout.terrain
    heaviest_L = layout.share_LE.max(axis=1) * terrain.slow_S[terrain.usable_S].min()
    floor_L: Floats = np.maximum(terrain.bound_L, heaviest_L)
    return floor_L


def _once(terrain: Terrain, packed_by: Terrain, copies_LE: Counts, free_LS: Counts) -> Layout:
    """Copies and packing by some weights, then swaps by the true ones."""
    least_LE = np.full_like(copies_LE, terrain.copies)
    if packed_by is not terrain:
        copies_LE = np.concatenate(
            [_layer_copies(packed_by, layer, least_LE, copies_LE) for layer in range(len(copies_LE))]
        )
    layout = _empty(packed_by, copies_LE, free_LS)
    pack(layout)
    layout.terrain = terrain
    Swapping(layout).run(ROUNDS)
    return layout


def _layer_copies(terrain: Terrain, layer: int, least_LE: Counts, budget_LE: Counts) -> Counts:
    """Copies of one layer's experts, [1, E], as many as `budget_LE` has for it."""
    one = slice(layer, layer + 1)
    budget, most = int(budget_LE[layer].sum()), int(terrain.usable_S.sum())
    return copies_of(terrain.weight_LE[one], least_LE[one], budget, most)


def _spilled(terrain: Terrain, copies_LE: Counts, free_LS: Counts) -> Layout:
    """The least copies first, then those of experts that are too much for one shard, then what room is left for."""
    layout = _empty(terrain, np.full_like(copies_LE, terrain.copies), free_LS)
    pack(layout)
    Swapping(layout).run(ROUNDS)
    Spilling(layout).run(copies_LE.sum(axis=1) - layout.copies_LE.sum(axis=1))
    rest_L = copies_LE.sum(axis=1) - layout.copies_LE.sum(axis=1)
    for layer in np.flatnonzero(rest_L > 0).tolist():
        layout.copies_LE[layer] = _layer_copies(terrain, layer, layout.copies_LE, copies_LE)[0]
    pack(layout)
    return layout


def _empty(terrain: Terrain, copies_LE: Counts, free_LS: Counts) -> Layout:
    """A layout that holds nothing."""
    held_LES = np.zeros((*copies_LE.shape, free_LS.shape[1]), np.bool_)
    return Layout(terrain, held_LES, free_LS.copy(), copies_LE.copy())
