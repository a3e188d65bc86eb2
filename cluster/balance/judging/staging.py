"""A placement in steps: while one changes, a shard holds what both give it, and has memory for so much only.

L MoE layers, S shards.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cluster.balance.moves import moves
from experts.placement import Placement, placement_of_layers

Counts = NDArray[np.int64]


def staged(
    current: Placement, planned: Placement, layers: Sequence[int], held_S: Counts, room_S: Counts, slots_S: Counts
) -> Placement | None:
    """The next step towards a plan: as many of its layers as there is memory for, those that load least first.

    Args:
        held_S: the (layer, expert) copies that each shard holds now.
        room_S: those that it may hold at any time.
        slots_S: those that it may hold when the change is over, unless it holds more now.

    Returns:
        `planned` itself if all of it fits; None if no layer does.
    """
    work = moves(current, planned, layers)
    taken_S, net_S, chosen = np.zeros_like(held_S), np.zeros_like(held_S), set[int]()
    bound_S = np.maximum(slots_S, held_S)
    for place in np.argsort(work.added_LS.sum(axis=1), kind="stable").tolist():
        added_S, dropped_S = work.added_LS[place], work.dropped_LS[place]
        fits = (held_S + taken_S + added_S <= room_S)[added_S > 0].all()
        if fits and (held_S + net_S + added_S - dropped_S <= bound_S)[added_S > 0].all():
            taken_S, net_S = taken_S + added_S, net_S + added_S - dropped_S
            chosen.add(layers[place])
    if len(chosen) == len(layers):
        return planned
    changed_L = (work.added_LS + work.dropped_LS).sum(axis=1)
    if not any(changed_L[layers.index(layer)] for layer in chosen):
        return None
    special = {layer: (planned if layer in chosen else current).layer(layer) for layer in layers}
    return placement_of_layers(current.shards, special, current.epoch)
