"""How many shards hold each expert: heat gets copies, out of one budget for all layers. L MoE layers, E experts."""

import heapq

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def copies_of(weight_LE: Floats, least_LE: Counts, budget: int, most: int, enough_L: Floats | None = None) -> Counts:
    """Give each further copy to the expert whose copies bear the most, in whichever layer it is.

    No other counts make the heaviest copy lighter, as copies of an expert share evenly.

    Args:
        weight_LE: microseconds that an expert costs a layer's call.
        least_LE: copies that are there before, at least one each.
        budget: copies of all layers together, at most; those of `least_LE` stay even so.
        most: copies of one expert, at most.
        enough_L: a copy that bears no more than this is not divided further.

    Returns:
        Copies of each expert, [L, E].
    """
    copies_LE = least_LE.copy()
    enough_L = np.zeros(len(weight_LE)) if enough_L is None else enough_L
    heap = [
        (-float(weight_LE[layer, expert] / copies_LE[layer, expert]), int(layer), int(expert))
        for layer, expert in np.argwhere((weight_LE > enough_L[:, None] * copies_LE) & (copies_LE < most))
    ]
    heapq.heapify(heap)
    for _ in range(budget - int(copies_LE.sum())):
        if not heap:
            break
        _, layer, expert = heap[0]
        copies_LE[layer, expert] += 1
        share = float(weight_LE[layer, expert] / copies_LE[layer, expert])
        if copies_LE[layer, expert] < most and share > enough_L[layer]:
            heapq.heapreplace(heap, (-share, layer, expert))
        else:
            heapq.heappop(heap)
    return copies_LE


def trimmed(weight_LE: Floats, held_LE: Counts, least: int, wanted_LE: Counts, budget: int) -> Counts:
    """Return which of the copies that are held stay, [L, E]: those that are wanted, others while there is room.

    What is dropped first costs the least: copies of the coldest experts.

    Args:
        held_LE: copies that are held now.
        least: copies that each expert must keep, where it has so many.
        wanted_LE: copies that each expert deserves.
        budget: copies of all layers together that may stay beside those that are still to be added.
    """
    stay_LE = held_LE.copy()
    spare_LE = np.maximum(held_LE - np.maximum(wanted_LE, least), 0)
    over = int(stay_LE.sum() + np.maximum(wanted_LE - held_LE, 0).sum()) - budget
    # Coldest first, by what a copy bears when one less is there.
    shares_LE = np.where(spare_LE > 0, weight_LE / np.maximum(held_LE - 1, 1), np.inf)
    for place in np.argsort(shares_LE, axis=None, kind="stable"):
        layer, expert = divmod(int(place), weight_LE.shape[1])
        if over <= 0 or not spare_LE[layer, expert]:
            break
        given_up = min(over, int(spare_LE[layer, expert]))
        stay_LE[layer, expert] -= given_up
        over -= given_up
    return stay_LE
